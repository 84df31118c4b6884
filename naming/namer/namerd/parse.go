package namerd

import (
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
	"github.com/tulle-mesh/tulle/naming/rewrite"
)

// Parse reads a configuration; file is its name, for errors. The error joins all that is
// wrong, one line each, as file:line: key: what is wrong.
func Parse(file string, content []byte) (*Config, error) {
	r := &document.Reader{File: file, Of: "a namerd configuration"}
	d := draft{Config: Config{File: file}, admin: l5d.DefaultAdmin(adminPort)}
	root := l5d.Root(r, content)
	if root == nil || root.Tag == "!!null" {
		if r.Faults() > 0 {
			return nil, r.Err()
		}
		root = &yaml.Node{Kind: yaml.MappingNode, Line: 1}
	}
	sets, _ := schema.Read(r, "", root, fields(), elsewhere())
	d = schema.Apply(d, sets)
	d.check(r, root)
	if err := r.Err(); err != nil {
		return nil, err
	}
	d.root = root
	d.Admin, d.Grace = d.admin.Address(), d.admin.Grace
	if ip := child(root, "admin", "ip"); ip != nil {
		d.AdminLine = ip.Line
	}
	d.Warnings, d.files = r.Warnings(), r.Mentioned()
	return &d.Config, nil
}

// Said returns what the file says, word by word, as what becomes JSON.
func (c *Config) Said() map[string]any { return l5d.Said(c.root) }

// Absent returns every file that the configuration names and that cannot be read now, such
// as a certificate, with the line of its key; and the directory of dtabs likewise.
func (c *Config) Absent() []document.Warning {
	all := l5d.Absent(c.files)
	if c.Storage.Kind == Files {
		all = append(all, l5d.AbsentDirectories([]document.Mention{c.mention("storage.rootDir", child(c.root, "storage", "rootDir"))})...)
	}
	return all
}

// AbsentAddresses returns likewise the directories of addresses, of namers io.l5d.fs. They may
// come later.
func (c *Config) AbsentAddresses() []document.Warning {
	var all []document.Mention
	for i, n := range c.Namers {
		if n.Kind == registry.Files {
			item := document.Resolve(child(c.root, "namers").Content[i])
			all = append(all, c.mention(fmt.Sprintf("namers[%d].rootDir", i), child(item, "rootDir")))
		}
	}
	return l5d.AbsentDirectories(all)
}

func (c *Config) mention(key string, n *yaml.Node) document.Mention {
	return document.Mention{File: c.File, Line: n.Line, Key: key, Path: n.Value}
}

// child returns what is below n at these keys, nil if there is nothing.
func child(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		if n != nil {
			n = schema.Child(n, key)
		}
	}
	return n
}

// Leaves returns every key that a configuration may have, with what holds without it, each
// once. Items of a list are below [].
func Leaves() []schema.Leaf {
	return append(schema.Leaves("", fields()), registry.OwnLeaves("namers[]", "transformers[]")...)
}

const adminPort = 9991

// draft is a configuration while it is being read.
type draft struct {
	Config
	admin      l5d.Admin
	interfaces []endpoint
	apis       []l5d.API
}

// fields are the keys at the top.
func fields() []schema.Field[draft] {
	return []schema.Field[draft]{
		schema.Lift(l5d.AdminField(adminPort), func(d *draft) *l5d.Admin { return &d.admin }),
		{
			Key: "storage",
			Read: func(r *document.Reader, path string, n *yaml.Node) func(*draft) {
				s, ok := storages().Read(r, path, n)
				if !ok {
					return nil
				}
				return func(d *draft) {
					d.Storage = s
					if s.Kind == Kubernetes {
						d.apis = append(d.apis, l5d.KubernetesAt(path, n, storageHost, storagePort))
					}
				}
			},
			Leaves: storages().Leaves,
		},
		{Key: "namers", Read: func(r *document.Reader, path string, n *yaml.Node) func(*draft) {
			namers, apis := registry.ReadOwnNamers(r, path, n)
			return func(d *draft) { d.Namers, d.apis = namers, append(d.apis, apis...) }
		}},
		{Key: "interfaces", Read: readInterfaces, Leaves: func(path string) []schema.Leaf { return interfaces().Leaves(path + "[]") }},
		l5d.Telemetry[draft](map[string]string{
			"io.l5d.zipkin":   "requests of the API are not traced",
			"io.l5d.tracelog": "requests of the API are not traced",
		}),
	}
}

// elsewhere are keys of a linkerd.yaml.
func elsewhere() map[string]string {
	const why = "it is of a linkerd.yaml, which tulle-proxy runs"
	return map[string]string{"routers": why, "usage": why}
}

// Keys that say where Kubernetes is.
const storageHost, storagePort = "host", "port"

const otherStorage = "dtabs can be objects of Kubernetes, by kind io.l5d.k8s, or files of a directory, by kind io.l5d.fs with rootDir; " +
	"namerctl copies them from one namerd to another"

func storages() schema.Kinds[Storage] {
	return schema.Kinds[Storage]{
		Unset:   "required",
		NameOf:  func(s Storage) string { return s.Kind },
		Foreign: map[string]string{"io.l5d.zk": otherStorage, "io.l5d.etcd": otherStorage, "io.l5d.consul": otherStorage},
		Kinds: []schema.Kind[Storage]{
			{Name: InMemory, Base: Storage{Kind: InMemory}, Fields: []schema.Field[Storage]{{
				Key: "namespaces",
				Read: func(r *document.Reader, path string, n *yaml.Node) func(*Storage) {
					dtabs := readDtabs(r, path, n)
					return func(s *Storage) { s.Namespaces = dtabs }
				},
				Leaves: func(path string) []schema.Leaf { return []schema.Leaf{{Path: path, Default: "none"}} },
			}}},
			{Name: Kubernetes, Base: Storage{Kind: Kubernetes, Namespace: "default"}, Fields: append(l5d.KubernetesFields[Storage](storageHost, storagePort),
				schema.Text("namespace", "default", func(s *Storage) *string { return &s.Namespace }, func(s string) (string, error) {
					return s, checkLabel(s, "namespace")
				}))},
			{Name: Files, Base: Storage{Kind: Files}, Required: []string{"rootDir"}, Fields: []schema.Field[Storage]{
				schema.Text("rootDir", "", func(s *Storage) *string { return &s.Dir }, func(s string) (string, error) {
					if s == "" {
						return "", errors.New("it is empty, and must be a directory")
					}
					return s, nil
				})}},
		},
	}
}

func readDtabs(r *document.Reader, path string, n *yaml.Node) map[string]naming.Dtab {
	dtabs := map[string]naming.Dtab{}
	for key, value := range r.Entries(path, n) {
		at := document.Join(path, key.Value)
		if err := checkLabel(key.Value, "dtab"); err != nil {
			r.Fault(key, "%s: %w", at, err)
			continue
		}
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" {
			r.Fault(value, "%s: it must be a text of rules, such as /svc => /#/io.l5d.k8s/default/http", at)
			continue
		}
		if d, ok := l5d.Dtab(r, at, value); ok {
			dtabs[key.Value] = d
		}
	}
	return dtabs
}

func checkLabel(s, of string) error {
	if rewrite.IsLabel(s) {
		return nil
	}
	return fmt.Errorf("%q is no name of a %s: up to 63 lower-case letters, digits and hyphens", s, of)
}

// check is what holds of the whole.
func (d *draft) check(r *document.Reader, root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		return
	}
	if schema.Child(root, "storage") == nil {
		r.Fault(root, "storage is not set, such as storage: {kind: %s} or storage: {kind: %s}", Kubernetes, InMemory)
	}
	if schema.Child(root, "interfaces") == nil {
		r.Fault(root, "interfaces is not set; %s", oneInterface)
	}
	d.checkListeners(r, root)
	switch {
	case len(d.apis) > 0:
		d.Kubernetes = d.apis[0].Address
	case slices.ContainsFunc(d.Servers, func(s Server) bool { return s.Access == AccessRBAC }):
		d.Kubernetes = l5d.DefaultKubernetes
	}
	for _, api := range d.apis {
		if first := d.apis[0]; !l5d.SameAddress(api.Address, first.Address) {
			r.Fault(api.Node, "%s: the API of Kubernetes is at %s here and at %s for %s in line %d; there is one for all",
				api.Path, api.Address, first.Address, first.Path, first.Node.Line)
		}
	}
}
