// Package soak holds that the proxy hides the failures that it may hide, and
// nothing else, for a million requests, and is no larger afterwards.
//
// It runs the real program in standalone mode between clients that check every
// byte and backends that count what they did. Endpoints join and leave all the
// time, one fails at random in every way that a backend can, and the policy is
// replaced. It measures no speed; e2e/bench does.
//
// Invariant: whether a request may fail is computed from what was done to it, not
// from how the proxy is made: see ledger.judge.
//
//	make soak
//	SOAK_REQUESTS=50000 go test -tags e2e -v ./e2e/soak   # after make build/tulle-proxy
package soak
