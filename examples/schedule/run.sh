#!/usr/bin/env bash
# What one would type, in an environment with kubectl and flowbinding in PATH.
set -euv
kubectl apply -f namespace.yaml
flowbinding flow sample advanced --flow-json > "${SCRATCH:=/tmp}/flow.json"
kubectl create configmap flows -n schedule --from-file="$SCRATCH/flow.json" --dry-run=client -o yaml |
  kubectl apply -f -
kubectl apply -f binding.yaml
kubectl wait -n schedule fb/digest --for=condition=Ready --timeout=60s
kubectl get cronjob -n schedule
flowbinding run digest -n schedule --timeout 60
kubectl get fb,jobs -n schedule
