//go:build tools

// Package adapter pins prometheus-adapter, which is built as it is.
package adapter

import _ "sigs.k8s.io/prometheus-adapter/cmd/adapter"
