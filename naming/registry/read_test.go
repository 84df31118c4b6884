package registry_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// read reads namers as they stand in a larger file.
func read(t testing.TB, text string) []registry.Namer {
	t.Helper()
	r := document.Reader{File: "linkerd.yaml"}
	namers := registry.ReadNamers(&r, "namers", r.Root([]byte(text)))
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return namers
}

func readTransformers(t testing.TB, text string) []registry.Transformer {
	t.Helper()
	r := document.Reader{File: "linkerd.yaml"}
	transformers := registry.ReadTransformers(&r, "transformers", r.Root([]byte(text)))
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return transformers
}
