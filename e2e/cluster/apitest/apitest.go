// Package apitest runs an API server alone, without nodes, around tests that need no more of a cluster. It
// is beside package suite, which the tests of package cluster use, too.
//
// It starts what package cluster builds and nothing of its own.
//
// Invariant: an API server that it started has ended when the test has, or the tests have.
//
//	api := apitest.Start(t)
//	_, err := api.Kubectl(t.Context(), nil, "get", "namespaces")
package apitest

import (
	"context"
	"testing"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/cluster/suite"
)

// Run is suite.Run with an API server around the tests, which start starts. They find it at api.
func Run(m suite.Tests, api **cluster.API, start func(context.Context) (*cluster.API, error)) int {
	return suite.Run(m, suite.Config{
		Up: func(ctx context.Context) (err error) {
			*api, err = start(ctx)
			return err
		},
		Down: func(context.Context) error {
			if *api == nil {
				return nil
			}
			return (*api).Close()
		},
	})
}

// Start starts an API server for one test.
func Start(t *testing.T) *cluster.API {
	t.Helper()
	api, err := cluster.StartAPI(t.Context(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	return api
}
