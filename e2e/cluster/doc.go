// Package cluster runs a real Kubernetes cluster on one Linux machine, without docker and without
// an image registry: a control plane, two nodes, CoreDNS and cert-manager, all built from Go modules.
//
// It is for end-to-end tests and for trying the mesh out by hand. It is no simulation: the API
// server, the kubelets, containerd, kube-proxy, pod networking and admission are the real ones. It
// is not safe against its own pods (they run under the machine's kernel as on any node), has no
// LoadBalancer and no NetworkPolicy, and there is one cluster at a time on a machine.
//
// The invariant: all there is of a cluster is below its state directory, in its processes'
// namespaces, in its cgroups and behind one link of the host. [Down] needs no memory of [Up], and
// afterwards nothing is left.
//
// [StartAPI] is for tests that need an API server alone: it is ready in three seconds, without root, and beside a
// cluster.
//
//	c, err := cluster.Up(ctx, cluster.Options{})
//	if err != nil { ... }
//	defer cluster.Down(ctx, cluster.Options{})
//	err = c.LoadImage(ctx, "tulle.dev/helloworld:dev", "bin/helloworld")
//	out, err := c.Kubectl(ctx, nil, "get", "nodes")
package cluster
