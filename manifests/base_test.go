package manifests_test

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/manifests"
)

var update = flag.Bool("update", false, "write the kustomize base anew")

// The kustomize base is what the chart renders; go test ./manifests -update writes it.
func TestBase(t *testing.T) {
	const file = "base/tulle.yaml"
	want, err := manifests.Render("tulle", nil)
	if err != nil {
		t.Fatal(err)
	}
	want = append([]byte("# Rendered from manifests/chart by \"go test ./manifests -update\". Do not edit.\n"), want...)
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the chart renders; run go test ./manifests -update (-want +got)\n%s", file, diff)
	}
}
