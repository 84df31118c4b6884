package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// StopAPI ends the API server at once, as a crash would: connections break, and nobody answers until StartAPI. All
// else goes on, etcd and the nodes with their pods. It is no error if the API server is away already.
func (c *Cluster) StopAPI(ctx context.Context) error {
	if err := os.Remove(c.dir.gate(cpName, gateServer)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("close the gate of the API server: %w", err)
	}
	cp, err := findMachine(c.dir, cpName)
	if err != nil {
		return err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, proc := range processes {
		if !c.isServer(cp, proc) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(proc))
		if err := killMachine(ctx, pid); err != nil {
			return fmt.Errorf("stop the API server: %w", err)
		}
	}
	return nil
}

// isServer tells whether a process of /proc is the API server of this cluster: one of that program may be there
// without a cluster, too, see [StartAPI].
func (c *Cluster) isServer(cp int, proc string) bool {
	args, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return false
	}
	program, _, _ := strings.Cut(string(args), "\x00")
	if program != c.bin.path("kube-apiserver") {
		return false
	}
	here, err := os.Readlink(filepath.Join(proc, "ns", "pid"))
	if err != nil {
		return false
	}
	there, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", cp))
	return err == nil && here == there
}

// StartAPI starts the API server again after StopAPI and returns when it is ready.
func (c *Cluster) StartAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiStartLimit)
	defer cancel()
	if err := openGate(c.dir, cpName, gateServer); err != nil {
		return err
	}
	return c.awaitAPI(ctx)
}
