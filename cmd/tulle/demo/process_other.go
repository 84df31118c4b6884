//go:build !linux

package demo

import "syscall"

// dieWithParent keeps a Ctrl-C in the terminal from reaching the processes
// before the demo stops them in order.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
