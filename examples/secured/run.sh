#!/usr/bin/env bash
# What one would type, in an environment with kubectl and flowbinding in PATH. SECURED_KAFKA is one
# broker where the manifest has three, KAFKA_SECRET a folder with ca.crt, username and password.
set -euv
kubectl apply -f namespace.yaml
kubectl create secret generic kafka -n secured --from-file="$KAFKA_SECRET" --dry-run=client -o yaml |
  kubectl apply -f -
kubectl patch --local -f binding.yaml --type=merge -o yaml -p '{"spec": {
    "kafka": {"bootstrapServers": "'"$SECURED_KAFKA"'"},
    "provisioning": {"replicationFactor": 1, "config": {"min.insync.replicas": "1"}}
  }}' | kubectl apply -f -
kubectl wait -n secured fb/reports --for=condition=Ready --timeout=60s
flowbinding produce reports -n secured --file messages.jsonl --key-field shop --wait 60
kubectl get fb -n secured
