package linkerd

import (
	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/l5d"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming/namer/api"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Parse reads a configuration; file is its name, for errors. The error joins all
// that is wrong, one line each, as file:line: key: what is wrong.
func Parse(file string, content []byte) (*Config, error) {
	r := &document.Reader{File: file, Of: "a Linkerd 1.x configuration"}
	c := draft{Config: Config{File: file}, admin: l5d.DefaultAdmin(adminPort)}
	root := l5d.Root(r, content)
	switch {
	case root != nil && root.Tag != "!!null":
		sets, _ := schema.Read(r, "", root, configFields(), elsewhere())
		c = schema.Apply(c, sets)
		if root.Kind == yaml.MappingNode && schema.Child(root, "routers") == nil && schema.Child(root, "storage") == nil {
			r.Fault(root, "%s", noRouter)
		}
	case r.Faults() == 0:
		r.Fault(&yaml.Node{Line: 1}, "%s", noRouter)
	}
	c.Admin, c.ShutdownGrace = c.admin.Address(), c.admin.Grace
	for _, d := range c.routers {
		c.Routers = append(c.Routers, d.Router)
	}
	c.checkServers(r, root)
	c.checkNamers(r)
	c.checkConfigMaps()
	if err := r.Err(); err != nil {
		return nil, err
	}
	c.Warnings, c.files = r.Warnings(), r.Mentioned()
	return &c.Config, nil
}

const noRouter = "config must have at least one router: routers: [{protocol: http, dtab: …, servers: [{}]}]"

// Absent returns every file that the configuration names and that cannot be read
// now, such as a certificate, with the line of its key. Files of rules may come later
// and are not meant.
func (c *Config) Absent() []document.Warning { return l5d.Absent(c.files) }

// draft is a configuration while it is being read.
type draft struct {
	Config
	admin   l5d.Admin
	routers []*router
	namers  *yaml.Node // nil without any
}

const (
	adminPort = 9990
	loopback  = l5d.Loopback
)

// configFields are the keys at the top.
func configFields() []schema.Field[draft] {
	return []schema.Field[draft]{
		schema.Lift(l5d.AdminField(adminPort), func(d *draft) *l5d.Admin { return &d.admin }),
		{Key: "routers", Read: readRouters, Leaves: func(path string) []schema.Leaf { return routerLeaves(path + "[]") }},
		{Key: "namers", Read: func(r *document.Reader, path string, n *yaml.Node) func(*draft) {
			namers := registry.ReadNamers(r, path, n)
			return func(d *draft) { d.Namers, d.namers = namers, n }
		}},
		l5d.Telemetry[draft](nil),
		schema.Group("usage",
			l5d.Quiet(schema.Text("orgId", "", schema.Nowhere[draft, string], nil)),
			schema.IdleUnless(schema.Flag("enabled", true, schema.Nowhere[draft, bool]), "nothing is ever reported to anybody", schema.Is("false")),
		),
	}
}

// elsewhere are keys of a namerd.yaml.
func elsewhere() map[string]string {
	const why = "it is of a namerd.yaml, which tulle-namer runs"
	return map[string]string{"storage": why, "interfaces": why}
}

// checkServers refuses two servers at one address.
func (d *draft) checkServers(r *document.Reader, root *yaml.Node) {
	var taken l5d.Listeners
	taken.Add(r, root, "admin", d.admin.IP, d.admin.Port)
	for _, router := range d.routers {
		for _, s := range router.servers {
			taken.Add(r, s.node, s.path, s.ip, s.port)
		}
	}
}

// checkNamers says that namers are not used if all names bind elsewhere.
func (d *draft) checkNamers(r *document.Reader) {
	for _, router := range d.routers {
		if router.Interpreter.Kind != Namerd {
			return
		}
	}
	if len(d.Namers) > 0 && len(d.routers) > 0 {
		r.Warn(d.namers, "namers has no effect: the names of all routers bind at a namerd")
	}
}

// checkConfigMaps refuses more keys of ConfigMaps than a controller lets one proxy follow.
func (d *draft) checkConfigMaps() {
	keys := map[api.ConfigMap]bool{}
	for _, router := range d.routers {
		in := router.Interpreter
		if in.Kind != ConfigMap {
			continue
		}
		if keys[api.ConfigMap{Namespace: in.Namespace, Name: in.Name, Key: in.Key}] = true; len(keys) > api.MaxConfigMaps {
			router.interpreterAt("its key is one too many: a proxy follows %d keys of ConfigMaps at most; put rules into fewer keys, or run the routers in two proxies", api.MaxConfigMaps)
			return
		}
	}
}
