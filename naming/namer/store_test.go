package namer_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/naming/namer/storetest"
)

func TestStores(t *testing.T) {
	t.Run("memory", func(t *testing.T) { storetest.Test(t, memory(t, nil), true) })
	t.Run("files", func(t *testing.T) {
		f, stop := openFiles(t, t.TempDir())
		defer stop()
		storetest.Test(t, f, false)
	})
}
