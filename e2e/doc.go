// Package e2e tests the whole mesh on a real Kubernetes, with real pods.
//
// The tests build on package e2e/cluster, install the mesh as a user does, and
// look at it from where users are: from inside pods, through a node's port, and
// at the proxies' own counters. They hold nothing about how the parts work.
//
// The clients of TestClients, and what they call, are in e2e/clients.
//
// They need Linux and root and have the build tag e2e:
//
//	make e2e                              # the cluster is tested, comes up, and goes away again
//	make e2e KEEP=1 ARGS="-run Switch"    # it stays, for the next run
package e2e
