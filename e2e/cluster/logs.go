package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CollectLogs writes what one needs to understand a failed test into dir, which it makes: the logs of
// the cluster's components (components/), those of every container, of its earlier run too if it was
// restarted (pods/), and lists of pods and events. It collects what it can and returns what it could not.
func (c *Cluster) CollectLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of the logs: %w", err)
	}
	errs := []error{copyTree(filepath.Join(dir, "components"), c.dir.logs())}
	for file, args := range map[string]string{
		"pods.txt":   "get pods -A -o wide",
		"pods.yaml":  "get pods -A -o yaml",
		"events.txt": "get events -A --sort-by=.lastTimestamp",
	} {
		out, err := c.Kubectl(ctx, nil, strings.Fields(args)...)
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, file), []byte(out), 0o644))
	}
	pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list the pods: %w", err))...)
	}
	for _, pod := range pods.Items {
		errs = append(errs, c.collectPod(ctx, filepath.Join(dir, "pods"), pod))
	}
	return errors.Join(errs...)
}

func (c *Cluster) collectPod(ctx context.Context, dir string, pod corev1.Pod) error {
	var errs []error
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		name := pod.Namespace + "_" + pod.Name + "_" + status.Name
		if status.State.Waiting == nil || status.RestartCount > 0 {
			errs = append(errs, c.collectContainer(ctx, filepath.Join(dir, name+".log"), pod, status.Name, false))
		}
		if status.RestartCount > 0 {
			errs = append(errs, c.collectContainer(ctx, filepath.Join(dir, name+".previous.log"), pod, status.Name, true))
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) collectContainer(ctx context.Context, file string, pod corev1.Pod, container string, previous bool) error {
	options := &corev1.PodLogOptions{Container: container, Previous: previous}
	log, err := c.client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("read the log of %s/%s, container %s: %w", pod.Namespace, pod.Name, container, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("keep the logs of the pods: %w", err)
	}
	return os.WriteFile(file, log, 0o644)
}

// copyTree copies a tree of plain files; files that are there already are replaced.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		target := filepath.Join(to, relative)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		return os.WriteFile(target, data, 0o644)
	})
}
