package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
)

// file is a configuration that was read, and what pages show of it.
type file struct {
	*namerd.Config
	said any
	dir  int // line of storage.rootDir
}

func read(path string) (*file, error) {
	name, content, err := cli.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := namerd.Parse(name, content)
	if err != nil {
		return nil, err
	}
	f := &file{Config: c}
	if err := yaml.Unmarshal(l5d.YAML(content), &f.said); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var at struct {
		Storage struct {
			RootDir yaml.Node `yaml:"rootDir"`
		}
	}
	if err := yaml.Unmarshal(l5d.YAML(content), &at); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	f.dir = at.Storage.RootDir.Line
	return f, nil
}

// absent returns the files that are named and cannot be read now, and the directory of dtabs if there is none.
func (f *file) absent() []document.Warning {
	all := f.Absent()
	if f.Storage.Kind != namerd.Files {
		return all
	}
	info, err := os.Stat(f.Storage.Dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", f.Storage.Dir)
	}
	if err != nil {
		all = append(all, document.Warning{File: f.File, Line: f.dir, Text: fmt.Sprintf("storage.rootDir: %v", err)})
	}
	return all
}

// mode is who may use a server: whoever reaches it, as with namerd, unless the file says otherwise. Where the file says
// nothing and nobody but this machine reaches it, web pages that pass for this machine are kept away too.
func mode(s namerd.Server) string {
	switch {
	case s.Access == namerd.AccessRBAC:
		return access.RBAC
	case s.Access == "" && onLoopback(s.Address):
		return access.Local
	}
	return access.Open
}

// open returns, by line of the file, what servers let in everyone from elsewhere without that being said.
func (f *file) open() map[int]string {
	all := map[int]string{}
	for _, s := range f.Servers {
		if s.Access == "" && mode(s) == access.Open && !s.TLS.RequireClient {
			all[s.Line] = fmt.Sprintf("whoever reaches %s may change routes, as with namerd; access: rbac asks for a token of Kubernetes, "+
				"and access: open says that it is meant", s.Address)
		}
	}
	return all
}

// onLoopback reports whether only this machine reaches an address.
func onLoopback(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().IsLoopback()
}

// load reads the configuration and makes a namer of it, without I/O beyond files.
func load(cfg Config, level *slog.LevelVar, log *slog.Logger) (*process, error) {
	f, err := read(cfg.Config)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, w := range f.absent() {
		errs = append(errs, errors.New(w.String()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, w := range f.Warnings {
		log.Warn(w.Text, "file", w.File, "line", w.Line)
	}
	for _, line := range slices.Sorted(maps.Keys(f.open())) {
		log.Warn(f.open()[line], "file", f.File, "line", line)
	}
	var reached *clients
	if asksKubernetes(f.Config) {
		config, err := reach(cfg.Kubeconfig, f.Config, log)
		if err != nil {
			return nil, err
		}
		if reached, err = connect(config); err != nil {
			return nil, err
		}
	} else if cfg.Kubeconfig != "" {
		log.Warn("the kubeconfig has no effect: nothing in the configuration is of Kubernetes", "file", f.File)
	}
	return newProcess(f, reached, os.Getenv, level, log)
}

// check prints what there is to say of the configuration.
func check(cmd *cobra.Command, cfg Config) error {
	f, err := read(cfg.Config)
	unset := map[string]bool{}
	if err == nil {
		_, err = newNames(f.Config, nowhere{}, nil, func(key string) string {
			if value := os.Getenv(key); value != "" {
				return value
			}
			unset[key] = true
			return cmp.Or(map[string]string{"POD_IP": "192.0.2.1"}[key], "example")
		}, slog.New(slog.DiscardHandler))
	}
	if err != nil {
		cmd.PrintErrln(err)
		return cli.ErrReported
	}
	for _, w := range f.Warnings {
		cmd.Printf("%s:%d: warning: %s\n", w.File, w.Line, w.Text)
	}
	for _, line := range slices.Sorted(maps.Keys(f.open())) {
		cmd.Printf("%s:%d: warning: %s\n", f.File, line, f.open()[line])
	}
	absent := f.absent()
	for _, w := range absent {
		cmd.Printf("%s:%d: absent: %s; it must be there where the namer runs\n", w.File, w.Line, w.Text)
	}
	for _, key := range slices.Sorted(maps.Keys(unset)) {
		cmd.Printf("warning: %s is not set here; where the namer runs it must be, if names depend on it\n", key)
	}
	noun := "interfaces"
	if len(f.Servers) == 1 {
		noun = "interface"
	}
	cmd.Printf("%d %s can be served\n", len(f.Servers), noun)
	if len(absent) > 0 {
		return cli.ErrAbsent
	}
	return nil
}

// nowhere is a source that knows nothing, for a check.
type nowhere struct{}

func (nowhere) Replicas(string) (*watch.Value[naming.Replicas], func()) {
	return watch.New(naming.Replicas{}), func() {}
}
