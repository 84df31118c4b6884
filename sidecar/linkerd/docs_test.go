package linkerd_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/schema/schematest"
	"github.com/tulle-mesh/tulle/sidecar/linkerd"
)

// Every key that there is is documented with what holds without it, and the other way round.
func TestKeysAreDocumented(t *testing.T) {
	schematest.Documented(t, "../../docs/linkerd.md", linkerd.Leaves())
}
