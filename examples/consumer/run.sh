#!/usr/bin/env bash
# What one would type, in an environment with kubectl and flowbinding in PATH.
set -euv
kubectl apply -f namespace.yaml
flowbinding flow sample advanced --flow-json > "${SCRATCH:=/tmp}/flow.json"
kubectl create configmap flows -n consumer --from-file="$SCRATCH/flow.json" --dry-run=client -o yaml |
  kubectl apply -f -
kubectl apply -f binding.yaml
kubectl wait -n consumer fb/questions --for=condition=Ready --timeout=60s
flowbinding produce questions -n consumer --file messages.txt --wait 60
kubectl get fb -n consumer
