package sidecar

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/naming"
	namer "github.com/tulle-mesh/tulle/naming/namer/client"
	"github.com/tulle-mesh/tulle/sidecar/admin"
)

// pages returns what the administration port shows.
func (p *Proxy) pages() admin.Config {
	return admin.Config{
		Metrics: p.metrics, Ready: p.waiting, Note: p.note, Dtab: p.showDtab, Policy: p.showPolicy,
		Delegate: p.delegate, NamerState: p.namerState, Configuration: p.configuration,
	}
}

// route returns the router with this label, or nil.
func (p *Proxy) route(label string) *route {
	i := slices.IndexFunc(p.routes, func(r *route) bool { return r.label == label })
	if i < 0 {
		return nil
	}
	return p.routes[i]
}

// showDtab prints the rules of one router, or if there is none of that label,
// those of all.
func (p *Proxy) showDtab(label string) string {
	if r := p.route(label); r != nil {
		return r.dtab().String()
	}
	if len(p.routes) == 1 {
		return p.routes[0].dtab().String()
	}
	var all []string
	for _, r := range p.routes {
		all = append(all, "# router "+r.label, r.dtab().String())
	}
	return strings.Join(all, "\n")
}

// dtab returns the rules that r has for every request.
func (r *route) dtab() naming.Dtab { return r.binder.Stored().Concat(r.binder.Base()...) }

// showPolicy prints what holds for one client and one service of a router, or if
// neither is named the whole policy; and where that comes from.
func (p *Proxy) showPolicy(label, client, service string) any {
	r := p.route(label)
	if r == nil {
		r = p.routes[0]
	}
	all := r.policy.Get()
	holds := map[string]any{"source": all.Source}
	if p.file != nil {
		holds["router"] = r.label
	}
	if client != "" {
		holds["client"] = all.Client(client)
	}
	if service != "" {
		holds["service"] = all.Service(service)
	}
	if client == "" && service == "" {
		holds["policy"] = all
	}
	return holds
}

// waiting returns what the proxy cannot serve without and has not got yet.
func (p *Proxy) waiting() []string {
	if p.mesh == nil {
		return nil
	}
	return p.mesh.waiting()
}

// note returns what the proxy does without at present, though it serves.
func (p *Proxy) note() string {
	var all []string
	if p.namer != nil && !p.namer.Connected() {
		if p.namer.Heard().IsZero() {
			all = append(all, fmt.Sprintf("the namer has not been heard since the start %s ago: names of Kubernetes are not known", p.silence().Round(time.Second)))
		} else {
			all = append(all, fmt.Sprintf("the namer has not been heard for %s: routing goes on with what was known", p.silence().Round(time.Second)))
		}
	}
	for _, r := range p.routes {
		if why := r.unruled(p.namer); why != "" {
			all = append(all, why)
		}
		if r.namerd == nil {
			continue
		}
		switch now := r.namerd.State(); {
		case now.Refused:
			all = append(all, fmt.Sprintf("the namerd of router %s, %s, %v (hint: %s): only what was known is routed", r.label, r.namerdAt, now.Err, now.Hint))
		case now.Err != nil && now.Since.IsZero():
			all = append(all, fmt.Sprintf("the namerd of router %s, %s, has not been heard since the start %s ago: its names are not known",
				r.label, r.namerdAt, time.Since(p.made).Round(time.Second)))
		case now.Err != nil:
			all = append(all, fmt.Sprintf("the namerd of router %s, %s, is away: routing goes on with what was known", r.label, r.namerdAt))
		}
	}
	if p.file != nil {
		if missing := p.missing(); len(missing) > 0 {
			all = append(all, fmt.Sprintf("%d of the routers and servers of %s are not served, see /config.json", len(missing), p.file.File))
		}
	}
	return strings.Join(all, "; ")
}

// unruled returns why the rules of a ConfigMap are not known, or not those that it has now; empty if they
// are, or there are none.
func (r *route) unruled(namer *namer.Client) string {
	if r.configMap == nil {
		return ""
	}
	why := namer.RulesCause(*r.configMap)
	switch known := r.stored.Get() != nil; {
	case why == "" && known:
		return ""
	case why == "":
		return fmt.Sprintf("the rules of router %s are not known: the controller has not told of %s yet", r.label, r.storedIn)
	case known:
		return fmt.Sprintf("the rules of router %s are the last that were good: %s", r.label, why)
	default:
		return fmt.Sprintf("the rules of router %s are not known: %s", r.label, why)
	}
}

// silence returns for how long the namer has said nothing.
func (p *Proxy) silence() time.Duration {
	if heard := p.namer.Heard(); !heard.IsZero() {
		return max(0, time.Since(heard))
	}
	return time.Since(p.made)
}

// namerState returns what is known of names.
func (p *Proxy) namerState() admin.NamerState {
	state := admin.NamerState{Namers: []admin.Namer{}, Names: []admin.Followed{}}
	for _, n := range p.meanings() {
		state.Names = append(state.Names, n.list()...)
	}
	slices.SortFunc(state.Names, func(a, b admin.Followed) int { return strings.Compare(a.ID, b.ID) })
	if p.namer != nil {
		now := p.namer.State()
		shown := admin.Namer{Address: p.cfg.Controller, Connected: now.Connected}
		if !p.namer.Heard().IsZero() {
			silent := p.silence().Seconds()
			shown.SilentSeconds = &silent
		}
		if now.Err != nil {
			shown.Error = now.Err.Error()
		}
		state.Namers = append(state.Namers, shown)
	}
	for _, r := range p.routes {
		if r.namerd == nil {
			continue
		}
		now := r.namerd.State()
		shown := admin.Namer{Address: r.namerdAt, Router: r.label, Namespace: r.namerdOf, Connected: now.Connected}
		if !now.Connected && !now.Since.IsZero() {
			silent := time.Since(now.Since).Seconds()
			shown.SilentSeconds = &silent
		}
		if now.Err != nil {
			shown.Error = now.Err.Error()
			if now.Hint != "" {
				shown.Error += " (hint: " + now.Hint + ")"
			}
		}
		state.Namers = append(state.Namers, shown)
	}
	users := map[string][]string{}
	for _, r := range p.routes {
		for _, u := range r.binder.InUse() {
			for _, id := range u.Bound {
				if !slices.Contains(users[id], r.label) {
					users[id] = append(users[id], r.label)
				}
			}
		}
	}
	for i := range state.Names {
		state.Names[i].Routers = users[state.Names[i].ID]
	}
	return state
}

// configuration returns what the proxy was told: the configuration of Linkerd 1.x
// if there is one, and under tulle what holds beside it.
func (p *Proxy) configuration() any {
	shown := map[string]any{}
	if p.said != nil {
		maps.Copy(shown, p.said)
	}
	var routers []map[string]any
	for _, r := range p.routes {
		addresses := []string{}
		for _, l := range r.servers {
			addresses = append(addresses, l.address)
		}
		shown := map[string]any{
			"label": r.label, "dstPrefix": r.prefix.String(), "dtab": r.binder.Base().String(), "stored": r.binder.Stored().String(),
			"appends": r.kept, "servers": addresses,
		}
		if r.namerd != nil {
			shown["namerd"] = r.namerdAt
		}
		if r.stored != nil {
			shown["storedIn"] = r.storedIn
		}
		routers = append(routers, shown)
	}
	ours := map[string]any{"mode": p.mode(), "settings": p.cfg.settings(), "routers": routers}
	if p.file != nil {
		ours["file"], ours["warnings"], ours["missing"] = p.file.File, texts(p.file.Warnings), texts(p.missing())
	}
	if n := p.taken.Load(); n != nil {
		ours["namers"] = n
	}
	shown["tulle"] = ours
	return shown
}

func texts[T fmt.Stringer](all []T) []string {
	lines := []string{}
	for _, x := range all {
		lines = append(lines, x.String())
	}
	return lines
}

// settings returns what is set, by key. None of it is secret: a token is named by
// its file, and certificates are public and left out for their length.
func (c *Config) settings() map[string]string {
	all := map[string]string{}
	v := reflect.ValueOf(*c)
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("setting")
		if text := fmt.Sprint(v.Field(i).Interface()); text != "" && key != "controller-ca" {
			all[key] = text
		}
	}
	return all
}

// mode is Config.Mode, but that of a proxy with a file is standalone.
func (p *Proxy) mode() string {
	if p.cfg.Config != "" {
		return ModeStandalone
	}
	return p.cfg.Mode
}
