//go:build !linux

package cluster

import (
	"os"
	"syscall"
)

// ownNamespaces lets the package build where the cluster cannot run; checkPlatform comes before it.
func ownNamespaces() *syscall.SysProcAttr { return nil }

func endWithParent() *syscall.SysProcAttr { return nil }

func tryLock(*os.File) error { return ErrUnsupported }
