package linkerd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/registry"
)

// Parse reads a configuration; file is its name, for errors. The error joins all
// that is wrong, one line each, as file:line: key: what is wrong.
func Parse(file string, content []byte) (*Config, error) {
	r := &document.Reader{File: file, Of: "a Linkerd 1.x configuration"}
	c := draft{Config: Config{File: file, ShutdownGrace: defaultGrace}, admin: defaultAdmin()}
	root := r.Root(spaced(content))
	switch {
	case root != nil && root.Tag != "!!null":
		sets, _ := schema.Read(r, "", root, configFields(), nil)
		c = schema.Apply(c, sets)
		if root.Kind == yaml.MappingNode && schema.Child(root, "routers") == nil {
			r.Fault(root, "%s", noRouter)
		}
	case r.Faults() == 0:
		r.Fault(&yaml.Node{Line: 1}, "%s", noRouter)
	}
	c.Admin = net.JoinHostPort(c.admin.ip, strconv.Itoa(c.admin.port))
	c.ShutdownGrace = c.admin.grace
	for _, d := range c.routers {
		c.Routers = append(c.Routers, d.Router)
	}
	c.checkServers(r)
	c.checkNamers(r)
	if err := r.Err(); err != nil {
		return nil, err
	}
	c.Warnings, c.files = r.Warnings(), r.Mentioned()
	return &c.Config, nil
}

const noRouter = "config must have at least one router: routers: [{protocol: http, dtab: …, servers: [{}]}]"

// spaced makes JSON that is indented by tabs YAML. A string of JSON has no tabs.
func spaced(content []byte) []byte {
	if !strings.HasPrefix(strings.TrimSpace(string(content)), "{") {
		return content
	}
	return []byte(strings.ReplaceAll(string(content), "\t", " "))
}

// Absent returns every file that the configuration names and that cannot be read
// now, such as a certificate, with the line of its key. Files of rules may come later
// and are not meant.
func (c *Config) Absent() []document.Warning {
	var all []document.Warning
	for _, m := range c.files {
		if err := readable(m.Path); err != nil {
			all = append(all, document.Warning{File: m.File, Line: m.Line, Text: fmt.Sprintf("%s: %v", m.Key, err)})
		}
	}
	return all
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	return err
}

// draft is a configuration while it is being read.
type draft struct {
	Config
	admin   admin
	routers []*router
	namers  *yaml.Node // nil without any
}

type admin struct {
	ip    string
	port  int
	grace time.Duration
}

const defaultGrace = 10 * time.Second

func defaultAdmin() admin { return admin{ip: loopback, port: 9990, grace: defaultGrace} }

const loopback = "127.0.0.1"

// configFields are the keys at the top.
func configFields() []schema.Field[draft] {
	return []schema.Field[draft]{
		adminField(),
		{Key: "routers", Read: readRouters, Leaves: func(path string) []schema.Leaf { return routerLeaves(path + "[]") }},
		{Key: "namers", Read: func(r *document.Reader, path string, n *yaml.Node) func(*draft) {
			namers := registry.ReadNamers(r, path, n)
			return func(d *draft) { d.Namers, d.namers = namers, n }
		}},
		{Key: "telemetry", Read: readTelemetry, Leaves: func(path string) []schema.Leaf { return telemeters().Leaves(path + "[]") }},
		schema.Group("usage",
			quiet(schema.Text("orgId", "", schema.Nowhere[draft, string], nil)),
			schema.IdleUnless(schema.Flag("enabled", true, schema.Nowhere[draft, bool]), "nothing is ever reported to anybody", schema.Is("false")),
		),
	}
}

// quiet is f, read and without effect, which needs no warning.
func quiet[T any](f schema.Field[T]) schema.Field[T] {
	return schema.IdleUnless(f, "", func(*yaml.Node) bool { return true })
}

func adminField() schema.Field[draft] {
	hidden := func(key string) schema.Field[admin] {
		f := schema.Flag(key, true, schema.Nowhere[admin, bool])
		read := f.Read
		f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*admin) {
			if read(r, path, n) != nil && n.Value != "true" {
				r.Fault(n, "%s: %s is refused: the administration port hides no page; keep it on loopback by admin.ip", path, n.Value)
			}
			return nil
		}
		return f
	}
	unset := defaultAdmin()
	return schema.Lift(schema.Group("admin",
		ipField(unset.ip, func(a *admin) *string { return &a.ip }),
		schema.Integer("port", 1, 0, 65535, unset.port, func(a *admin) *int { return &a.port }),
		schema.Integer("shutdownGraceMs", time.Millisecond, 0, int64(schema.MaxTime/time.Millisecond), unset.grace,
			func(a *admin) *time.Duration { return &a.grace }),
		schema.Idle(schema.Integer("httpIdentifierPort", 1, 0, 65535, 0, schema.Nowhere[admin, int]),
			"the port is not opened; /delegator.json says where a name leads"),
		schema.Idle(schema.Integer("workerThreads", 1, 1, 1<<20, 0, schema.Nowhere[admin, int]), "threads are the runtime's"),
		schema.Refused[admin]("tls", "the administration port speaks no TLS; keep it on loopback by admin.ip"),
		schema.Group("security", hidden("uiEnabled"), hidden("controlEnabled"), hidden("diagnosticsEnabled"),
			schema.Idle(schema.Lines("pathWhitelist", false, schema.Nowhere[admin, string]), "no page is hidden"),
			schema.Refused[admin]("pathBlacklist", "the administration port hides no page; keep it on loopback by admin.ip")),
	), func(d *draft) *admin { return &d.admin })
}

// ipField is the address to listen at.
func ipField[T any](unset string, at func(*T) *string) schema.Field[T] {
	return schema.Text("ip", unset, at, func(s string) (string, error) {
		if s == "localhost" {
			return loopback, nil
		}
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return "", fmt.Errorf("%q is no IP address, such as %s or 0.0.0.0", s, loopback)
		}
		return ip.String(), nil
	})
}

func readTelemetry(r *document.Reader, path string, n *yaml.Node) func(*draft) {
	for i, item := range schema.Items(r, path, n, "telemeters") {
		telemeters().Read(r, fmt.Sprintf("%s[%d]", path, i), item)
	}
	return nil
}

// telemeters are known and come with telemetry; what they ask for harms nobody if
// it is not there.
func telemeters() schema.Kinds[struct{}] {
	type none = struct{}
	rate := func(unset float64) schema.Field[none] {
		return quiet(schema.Number("sampleRate", 0, 1, unset, schema.Nowhere[none, float64]))
	}
	word := func(key string) schema.Field[none] {
		return quiet(schema.Text(key, "", schema.Nowhere[none, string], nil))
	}
	count := func(key string, lo, hi int64) schema.Field[none] {
		return quiet(schema.Integer(key, 1, lo, hi, 0, schema.Nowhere[none, int]))
	}
	kind := func(name, idle string, fields ...schema.Field[none]) schema.Kind[none] {
		return schema.Kind[none]{Name: name, Idle: idle, Fields: fields}
	}
	recent := kind("io.l5d.recentRequests", "requests are not kept yet", rate(0), count("capacity", 1, 1<<20))
	recent.Required = []string{"sampleRate"}
	statsd := kind("io.l5d.statsd", "metrics are not sent to StatsD; they are at /metrics of the administration port",
		word("prefix"), word("hostname"), count("port", 1, 65535), count("gaugeIntervalMs", 1, 1<<31), rate(0.01))
	statsd.Experimental = true
	return schema.Kinds[none]{
		NameOf: func(none) string { return "" },
		Unset:  "required",
		Kinds: []schema.Kind[none]{
			kind("io.l5d.prometheus", "metrics are at /metrics of the administration port, by names of Tulle's own", word("path"), word("prefix")),
			recent,
			kind("io.l5d.zipkin", "spans are not sent yet; the headers of a trace are read and passed on", word("host"), count("port", 1, 65535), rate(0.001)),
			kind("io.l5d.tracelog", "traces are not logged; the headers of a trace are read and passed on", rate(1), word("level")),
			kind("io.l5d.influxdb", "there is no page for InfluxDB; metrics are at /metrics of the administration port"),
			statsd,
		},
	}
}

// checkServers refuses two servers at one address.
func (d *draft) checkServers(r *document.Reader) {
	taken := map[string]bool{}
	if d.admin.port != 0 {
		taken[net.JoinHostPort(d.admin.ip, strconv.Itoa(d.admin.port))] = true
	}
	for _, router := range d.routers {
		for _, s := range router.servers {
			address := net.JoinHostPort(s.ip, strconv.Itoa(s.port))
			if taken[address] && s.port != 0 {
				r.Fault(s.node, "%s: Server conflict on port %d: something else listens at %s", s.path, s.port, address)
			}
			taken[address] = true
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

// dtabOf reads rules. Its errors show the line of the rules where they are wrong,
// and are noted at that of the file if that can be told.
func dtabOf(r *document.Reader, path string, n *yaml.Node) (naming.Dtab, bool) {
	d, err := naming.ParseDtab(n.Value)
	if err == nil {
		return d, true
	}
	at := *n
	var wrong *naming.ParseError
	if errors.As(err, &wrong) {
		before, after := wrong.Input[:wrong.Offset], wrong.Input[wrong.Offset:]
		start := strings.LastIndexByte(before, '\n') + 1
		if n.Style&yaml.LiteralStyle != 0 {
			at.Line += 1 + strings.Count(before, "\n")
		}
		line, _, _ := strings.Cut(after, "\n")
		err = &naming.ParseError{Input: before[start:] + line, Offset: len(before) - start, Expected: wrong.Expected, Found: wrong.Found}
	}
	r.Fault(&at, "%s: %w", path, err)
	return nil, false
}
