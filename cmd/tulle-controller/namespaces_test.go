package main

import (
	"maps"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metadatafake "k8s.io/client-go/metadata/fake"
)

// The API server calls only for namespaces with the label; where memory has another one, it is behind.
func TestNamespaceJoinedJustNow(t *testing.T) {
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	named := func(name, label string) *metav1.PartialObjectMetadata {
		o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
		if label != "" {
			o.Labels = map[string]string{"tulle.dev/inject": label}
		}
		return o
	}
	client := metadatafake.NewSimpleMetadataClient(scheme, named("labelled", "enabled"), named("opened", "best-effort"), named("new", "enabled"), named("left", ""))
	n := newNamespaces(client)
	for _, known := range []*metav1.PartialObjectMetadata{named("labelled", ""), named("opened", "disabled"), named("left", ""), named("old", "enabled")} {
		if err := n.informer.GetIndexer().Add(known); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"labelled": "enabled", "opened": "best-effort", "new": "enabled", "left": "", "old": "enabled"} {
		ns, err := n.Find(t.Context(), name)
		if got := ns.Labels["tulle.dev/inject"]; err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if asked := len(client.Actions()); asked != 4 {
		t.Errorf("the API server was asked %d times, once for each that has not joined would be 4", asked)
	}
	if _, err := n.Find(t.Context(), "nowhere"); err == nil {
		t.Error("found a namespace that is not there")
	}
}

// Of the annotations of namespaces, which may hold whole objects, only what the injector reads is kept in memory.
func TestNamespacesKeepWhatTheInjectorReads(t *testing.T) {
	const ids = "openshift.io/sa.scc.uid-range"
	for _, tt := range []struct{ annotations, want map[string]string }{
		{nil, nil},
		{map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}, nil},
		{map[string]string{"note": "x", ids: "1000700000/10000"}, map[string]string{ids: "1000700000/10000"}},
	} {
		kept, err := onlyRead(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Name: "shop", Labels: map[string]string{"a": "b"}, Annotations: tt.annotations, ManagedFields: []metav1.ManagedFieldsEntry{{}}}})
		if err != nil {
			t.Fatal(err)
		}
		o := kept.(metav1.Object)
		if !maps.Equal(o.GetAnnotations(), tt.want) || o.GetManagedFields() != nil || o.GetLabels()["a"] != "b" {
			t.Errorf("of %v is kept %v", tt.annotations, o)
		}
	}
}
