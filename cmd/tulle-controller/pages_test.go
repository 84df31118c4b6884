package main

import (
	"testing"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// What proxies follow, by their streams, is on the pages.
func TestFollowedByProxies(t *testing.T) {
	index, err := kubernetes.NewIndex(kubernetes.Config{TrustDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	f := followed{index, &registry.Ledger{}}
	id := naming.Path{"#", "io.l5d.k8s", "shop", "http", "cart"}
	value, release := f.Replicas(id)
	if all := f.ledger.Followed(); len(all) != 1 || all[0].ID != id.String() || !all[0].Equal(value.Get()) {
		t.Errorf("it says %+v", all)
	}
	release()
	if all := f.ledger.Followed(); len(all) != 0 {
		t.Errorf("after release it says %+v", all)
	}
}
