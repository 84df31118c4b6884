package linkerd

import (
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Leaves returns every key that a configuration may have, with what holds without
// it: those of both protocols, each once. Items of a list are below [].
func Leaves() []schema.Leaf {
	all := schema.Leaves("", configFields())
	all = append(all, registry.NamerLeaves("namers[]")...)
	return append(all, registry.TransformerLeaves("transformers[]")...)
}
