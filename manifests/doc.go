// Package manifests holds what Tulle is installed from: the Helm chart, in the folder chart, and examples.
//
// The chart is the only source. "helm install", "tulle install | kubectl apply -f -" and the tests all use it;
// [Render] runs it through Helm's own engine, offline and without a client: templates that ask a cluster get no
// answer here, so ours never do. The package knows no cluster, keeps no releases and applies nothing.
//
// Invariant: for the same values the output is the same bytes, so tools that compare it find no difference.
//
//	yaml, err := manifests.Render("tulle", map[string]any{
//		"controller": map[string]any{"image": "registry.example/tulle-controller:1.0"},
//	})
package manifests
