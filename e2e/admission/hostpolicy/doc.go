// Package hostpolicy holds the tests of host mode by a policy of the API server, against a real API server: it must give
// pods what the webhook gives them.
//
// They run with the tag e2e (make e2e), and need neither root nor packages of the system.
package hostpolicy
