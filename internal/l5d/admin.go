package l5d

import (
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/document"
	"github.com/tulle-mesh/tulle/internal/schema"
)

// Admin is what `admin` says.
type Admin struct {
	IP   string
	Port int // 0 is one that is free
	// Grace is how long requests may take to end when the process stops.
	Grace time.Duration
}

// DefaultAdmin is what holds without the key, with the port of the program.
func DefaultAdmin(port int) Admin { return Admin{IP: Loopback, Port: port, Grace: 10 * time.Second} }

// Address is where the administration port is, host:port.
func (a Admin) Address() string { return Address(a.IP, a.Port) }

// AdminField is the key admin. port is the one that holds without admin.port.
func AdminField(port int) schema.Field[Admin] {
	hidden := func(key string) schema.Field[Admin] {
		f := schema.Flag(key, true, schema.Nowhere[Admin, bool])
		read := f.Read
		f.Read = func(r *document.Reader, path string, n *yaml.Node) func(*Admin) {
			if read(r, path, n) != nil && n.Value != "true" {
				r.Fault(n, "%s: %s is refused: the administration port hides no page; keep it on loopback by admin.ip", path, n.Value)
			}
			return nil
		}
		return f
	}
	unset := DefaultAdmin(port)
	return schema.Group("admin",
		IP(unset.IP, func(a *Admin) *string { return &a.IP }),
		schema.Integer("port", 1, 0, 65535, unset.Port, func(a *Admin) *int { return &a.Port }),
		schema.Integer("shutdownGraceMs", time.Millisecond, 0, int64(schema.MaxTime/time.Millisecond), unset.Grace,
			func(a *Admin) *time.Duration { return &a.Grace }),
		schema.Idle(schema.Integer("httpIdentifierPort", 1, 0, 65535, 0, schema.Nowhere[Admin, int]),
			"the port is not opened; delegator.json of the administration port says where a name leads"),
		schema.Idle(schema.Integer("workerThreads", 1, 1, 1<<20, 0, schema.Nowhere[Admin, int]), "threads are the runtime's"),
		schema.Refused[Admin]("tls", "the administration port speaks no TLS; keep it on loopback by admin.ip"),
		schema.Group("security", hidden("uiEnabled"), hidden("controlEnabled"), hidden("diagnosticsEnabled"),
			schema.Idle(schema.Lines("pathWhitelist", false, schema.Nowhere[Admin, string]), "no page is hidden"),
			schema.Refused[Admin]("pathBlacklist", "the administration port hides no page; keep it on loopback by admin.ip")),
	)
}
