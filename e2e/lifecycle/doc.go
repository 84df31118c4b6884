// Package lifecycle holds the tests of "tulle upgrade", "tulle uninstall" and "tulle check" against a real API server,
// without nodes: what the commands read and write is there, and what Kubernetes' controllers would do is played.
//
// Each test has an API server of its own: the chart's objects of the cluster have fixed names, and without Kubernetes'
// controllers a namespace that is deleted stays for ever.
//
// They run with the tag e2e (make e2e), and need neither root nor packages of the system.
package lifecycle
