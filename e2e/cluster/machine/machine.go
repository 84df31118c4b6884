// Package machine is process 1 of one machine of the test cluster.
//
// A machine is a tree of processes in its own mount, process, network, host name and IPC namespaces.
// It shares the host's files, with its own /run, /var and /etc laid over them. Because it is process
// 1 of its process namespace, one SIGKILL to it ends everything in it, pods included, and with the last
// process go its mounts and its network: that is both how a cluster is taken down and what a power cut
// of a node looks like.
//
// The starter makes the namespaces (see cluster.startMachine), then lays the network from outside;
// the machine prepares its files and runs its daemons, again when they end.
package machine

import (
	"encoding/json"
	"fmt"
	"os"
)

// Spec is a machine. It is passed as a JSON file, whose path is the program's only argument.
type Spec struct {
	Name string // the host name
	// Disk is a directory that outlives the machine's process. The machine's own layer of /var and
	// /etc is in it.
	Disk string
	// Binds are directories of Disk that are laid over a path of the machine, for what must not be on
	// an overlay: container layers are overlays themselves, and one cannot be made on another.
	Binds []Bind
	// Files are written when the machine starts, into its own layer of /etc and /var.
	Files map[string]string
	// Sysctls are set for real, so only those that a network namespace has of its own belong here.
	Sysctls map[string]string
	// Masks are contents laid over files of /proc/sys: the machine's daemons read and write these, and the
	// host's real values stay as they are.
	Masks map[string]string
	// Daemons are started in order, without waiting for each other.
	Daemons []Daemon
}

// Bind lays the directory From, below Disk, over the directory To.
type Bind struct{ From, To string }

// Daemon is a program that the machine keeps running.
type Daemon struct {
	Name string
	Path string
	Args []string
	Env  []string
	Log  string // standard output and error are appended to this file
	// After is a file: the daemon starts, and starts again, only while it exists. Empty starts it at once.
	After string
}

// ReadSpec reads a machine from a JSON file.
func ReadSpec(path string) (*Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the machine: %w", err)
	}
	spec := new(Spec)
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("read the machine %s: %w", path, err)
	}
	return spec, nil
}
