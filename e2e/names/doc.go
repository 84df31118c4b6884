// Package names tests what names mean in Kubernetes against a real API server with real objects, and
// without nodes: the store of dtabs, the index of endpoints and the namers above them, how much of them
// fits into memory, and what becomes of them while the API server is away.
//
// The API server alone takes three seconds and no root; the tests have the build tag e2e:
//
//	go test -tags e2e ./e2e/names
package names
