// Package examples runs the configurations of manifests/examples/linkerd for real: proxies,
// applications and the namer on addresses of the loopback, with a cluster that the tests make up.
//
// It holds tests only, and needs neither root nor a cluster.
//
//	go test ./e2e/examples
package examples
