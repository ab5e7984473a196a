{{- define "flowbinding.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "flowbinding.fullname" -}}
{{- $name := include "flowbinding.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "flowbinding.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "flowbinding.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The selector can never change on a Deployment: nothing that a user sets belongs in it. */}}
{{- define "flowbinding.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flowbinding.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Our own labels win over commonLabels: a selector must find what it selects. */}}
{{- define "flowbinding.labels" -}}
{{- $own := include "flowbinding.selectorLabels" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/part-of" "flowbinding" }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $own "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_") }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- mergeOverwrite (deepCopy .Values.commonLabels) $own | toYaml }}
{{- end }}

{{/* repository@digest, else repository:tag. */}}
{{- define "flowbinding.imageReference" -}}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository .tag }}
{{- end }}
{{- end }}

{{- define "flowbinding.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- include "flowbinding.imageReference" (dict "repository" .Values.image.repository "tag" $tag "digest" .Values.image.digest) }}
{{- end }}

{{/*
The operator's digest names the operator's image: it holds for workers only as long as neither
their repository nor their tag was changed.
*/}}
{{- define "flowbinding.workerImage" -}}
{{- $own := .Values.worker.image }}
{{- $digest := $own.digest }}
{{- if not (or $digest $own.repository $own.tag) }}
{{- $digest = .Values.image.digest }}
{{- end }}
{{- $repository := default .Values.image.repository $own.repository }}
{{- $tag := default (default .Chart.AppVersion .Values.image.tag) $own.tag }}
{{- include "flowbinding.imageReference" (dict "repository" $repository "tag" $tag "digest" $digest) }}
{{- end }}

{{/* Names of the worker's pull Secrets, separated by commas. */}}
{{- define "flowbinding.workerPullSecrets" -}}
{{- $names := list }}
{{- range default .Values.imagePullSecrets .Values.worker.imagePullSecrets }}
{{- $names = append $names .name }}
{{- end }}
{{- join "," $names }}
{{- end }}

{{/* spec.kafka as JSON, without what is not set: an empty object would not be a valid reference. */}}
{{- define "flowbinding.kafka" -}}
{{- $kafka := dict }}
{{- with .Values.kafka.bootstrapServers }}
{{- $_ := set $kafka "bootstrapServers" . }}
{{- end }}
{{- if .Values.kafka.tls.enabled }}
{{- $tls := dict "enabled" true }}
{{- range $field := list "caSecretRef" "certificateSecretRef" "keySecretRef" }}
{{- with index $.Values.kafka.tls $field }}
{{- $_ := set $tls $field . }}
{{- end }}
{{- end }}
{{- $_ := set $kafka "tls" $tls }}
{{- end }}
{{- if .Values.kafka.sasl.mechanism }}
{{- $_ := set $kafka "sasl" .Values.kafka.sasl }}
{{- end }}
{{- toJson $kafka }}
{{- end }}

{{/*
What the operator may do, in the whole cluster or in each watched namespace. It deletes nothing but a
Deployment or a CronJob of its own, when a binding's source becomes a schedule, or no schedule any
more; with their binding, children are removed by the garbage collector (ownerReference).
*/}}
{{- define "flowbinding.rules" -}}
- apiGroups: [flowbinding.io]
  resources: [flowbindings]
  verbs: [list, watch]
- apiGroups: [flowbinding.io]
  resources: [flowbindings/status]
  verbs: [patch]
# Children block their owner's deletion. Where the API server checks who may say so
# (OwnerReferencesPermissionEnforcement; always on in OpenShift), that takes this permission. The
# operator sets no finalizer.
- apiGroups: [flowbinding.io]
  resources: [flowbindings/finalizers]
  verbs: [update]
# Server-side apply of an object that is not there takes create as well as patch.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
# Bindings with source.schedule; how their runs ended.
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch]
# The manifest that a worker reads. By name only.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
# Kafka credentials that a FlowBinding refers to, to measure its lag. By name only.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Why workers do not come up, by label.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* "true" when a monitor is wanted and the cluster knows the kind. */}}
{{- define "flowbinding.hasMonitoring" -}}
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end }}
{{- end }}
