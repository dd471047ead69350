module tuneyard.dev/tests/autoscaling

go 1.25

require sigs.k8s.io/prometheus-adapter v0.12.0
