// Serves Redis from memory for Argo CD, as `argocd --core` does.
//
//	redis ADDRESS
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/alicebob/miniredis/v2"
)

func main() {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Its keys do not expire by themselves.
	for range time.Tick(time.Second) {
		server.FastForward(time.Second)
	}
}
