// Evaluates the health scripts of a folder with Argo CD's own evaluator, as a cluster does that has them in argocd-cm.
//
//	evaluator FOLDER < OBJECTS
//
// FOLDER has the layout of Argo CD's resource_customizations: <group>/<kind>/health.lua. The input is a JSON array of
// objects; the output is a JSON array with the health of each: {"status": ..., "message": ...}.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/gitops-engine/pkg/health"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(folder string) error {
	overrides, err := readOverrides(folder)
	if err != nil {
		return err
	}
	var objects []map[string]any
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		return err
	}
	found := make([]*health.HealthStatus, 0, len(objects))
	for _, object := range objects {
		status, err := overrides.GetResourceHealth(&unstructured.Unstructured{Object: object})
		if err != nil {
			return err
		}
		found = append(found, status)
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func readOverrides(folder string) (lua.ResourceHealthOverrides, error) {
	scripts, err := filepath.Glob(filepath.Join(folder, "*", "*", "health.lua"))
	if err != nil {
		return nil, err
	}
	overrides := lua.ResourceHealthOverrides{}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			return nil, err
		}
		kind := filepath.Dir(script)
		overrides[filepath.Base(filepath.Dir(kind))+"/"+filepath.Base(kind)] = v1alpha1.ResourceOverride{HealthLua: string(text)}
	}
	return overrides, nil
}
