package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/cli"
	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/kubernetes/access"
	"github.com/tulle-mesh/tulle/naming/namer/namerd"
)

// file is a configuration that was read.
type file struct{ *namerd.Config }

func read(path string) (*file, error) {
	name, content, err := cli.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := namerd.Parse(name, content)
	if err != nil {
		return nil, err
	}
	return &file{c}, nil
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

// warnings returns what has no effect and what servers let in without that being said, by line.
func (f *file) warnings() []document.Warning {
	all := slices.Clone(f.Warnings)
	warn := func(line int, format string, args ...any) {
		all = append(all, document.Warning{File: f.File, Line: line, Text: fmt.Sprintf(format, args...)})
	}
	if !onLoopback(f.Admin) {
		warn(f.AdminLine, "whoever reaches %s reads all rules and may set the log level; admin: {ip: %s} leaves that to this machine", f.Admin, l5d.Loopback)
	}
	for _, s := range f.Servers {
		switch {
		case s.Access == "" && mode(s) == access.Open && !s.TLS.RequireClient:
			warn(s.Line, "whoever reaches %s may change routes, as with namerd; access: rbac asks for a token of Kubernetes, "+
				"and access: open says that it is meant", s.Address)
		case s.Access == namerd.AccessRBAC && s.TLS.CertFile == "" && !onLoopback(s.Address):
			warn(s.Line, "tokens go to %s in the clear, and whoever reads one on the way may use it; tls: {certPath: …, keyPath: …} keeps them secret", s.Address)
		}
	}
	slices.SortStableFunc(all, func(a, b document.Warning) int { return cmp.Compare(a.Line, b.Line) })
	return all
}

// tls returns that of a server, nil for none.
func (f *file) tls(s namerd.Server, log *slog.Logger) (*tls.Config, error) {
	config, err := newTLS(s.TLS, log)
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", f.File, s.Line, err)
	}
	return config, nil
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
	for _, w := range f.Absent() {
		errs = append(errs, errors.New(w.String()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, w := range f.warnings() {
		log.Warn(w.Text, "file", w.File, "line", w.Line)
	}
	for _, w := range f.AbsentAddresses() {
		log.Warn(w.Text+"; names lead to nothing there until it is", "file", w.File, "line", w.Line)
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
	if f != nil {
		for _, s := range f.Servers {
			if _, wrong := f.tls(s, slog.New(slog.DiscardHandler)); !errors.As(wrong, new(*fs.PathError)) { // which is absent
				err = errors.Join(err, wrong)
			}
		}
	}
	if err != nil {
		cmd.PrintErrln(err)
		return cli.ErrReported
	}
	for _, w := range f.warnings() {
		cmd.Printf("%s:%d: warning: %s\n", w.File, w.Line, w.Text)
	}
	absent := append(f.Absent(), f.AbsentAddresses()...)
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
