package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// downLimit bounds taking a cluster down; it takes about a second.
const downLimit = 30 * time.Second

// Down ends the cluster and removes everything of it but the built binaries. It works from what it
// finds, so it can follow a crash, and it is no error if there is nothing to take down.
func Down(ctx context.Context, options Options) error {
	if err := checkPlatform(); err != nil {
		return err
	}
	o, err := options.defaults()
	if err != nil {
		return err
	}
	unlock, err := lock(ctx, o.CacheDir)
	if err != nil {
		return err
	}
	defer unlock()
	return down(ctx, o.state())
}

func down(ctx context.Context, dir stateDir) error {
	ctx, cancel := context.WithTimeout(ctx, downLimit)
	defer cancel()
	// The link first: the namespaces at its other end die only when the kernel gets to it.
	if err := deleteHostLink(ctx); err != nil {
		return err
	}
	machines, err := findMachines(dir)
	if err != nil {
		return err
	}
	var errs []error
	for name, pid := range machines {
		if err := killMachine(ctx, pid); err != nil {
			errs = append(errs, fmt.Errorf("end machine %s: %w", name, err))
		}
	}
	errs = append(errs, removeCgroups(ctx, cgroupRoot, clusterName))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return removeState(ctx, dir)
}

// removeState removes the state directory. The mounts of a machine that has just ended may still
// hold some of it, so it tries until ctx ends.
func removeState(ctx context.Context, dir stateDir) error {
	for {
		err := os.RemoveAll(string(dir))
		if err == nil {
			return nil
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("remove the cluster's state: %w", err)
		}
	}
}

// lock keeps others from bringing up or taking down a cluster until the returned function is called,
// or the process ends. It waits for those who do.
func lock(ctx context.Context, cache string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	for {
		if tryLock(file) == nil {
			return func() { _ = file.Close() }, nil
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, errors.Join(fmt.Errorf("lock the cluster: another process is at it: %w", err), file.Close())
		}
	}
}
