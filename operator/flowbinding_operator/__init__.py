"""The operator: turns FlowBindings into scaled worker Deployments."""
