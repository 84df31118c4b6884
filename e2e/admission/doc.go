// Package admission holds the tests of the injector's webhook against a real API server, without nodes: the chart's own
// webhook configuration and Service lead to replicas in this process, which have the controller's rights and no more.
//
// They run with the tag e2e (make e2e), and need neither root nor packages of the system.
package admission
