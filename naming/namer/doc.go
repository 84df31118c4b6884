// Package namer is the server side of naming: it keeps dtabs by namespace, lets people and
// pipelines edit them over namerd's HTTP API and answers there what names are bound to, and
// streams dtabs, replica sets and pods to the proxies, with one policy and one list of namers
// for all of them.
//
// What names mean is the language's and a Registry's, replica sets and pods come from a Source,
// which is naming/kubernetes in a cluster, dtabs from a Store: Memory, Files, or the objects of
// naming/kubernetes/store. It knows no Kubernetes types, and of a policy no more than its text.
//
// Invariant: a proxy that keeps up is told the last state of everything it watches, once;
// a proxy that does not never holds up another, nor the Source.
//
//	store, err := namer.NewMemory(map[string]string{"default": "/svc => /host"})
//	mesh.Handle(api.WatchPath, namer.NewStream(namer.StreamConfig{Store: store, Source: index}))
//	http.ListenAndServe(":4180", namer.NewAPI(namer.APIConfig{Store: store, Registry: names, Logger: logger}))
package namer
