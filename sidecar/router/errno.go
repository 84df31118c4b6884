package router

import "syscall"

var (
	errReset error = syscall.ECONNRESET
	errPipe  error = syscall.EPIPE
)
