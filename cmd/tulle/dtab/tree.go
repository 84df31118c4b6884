package dtab

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
)

// ways are the leaves that requests go to, and the share of them that each gets.
type ways map[*naming.Delegation]float64

// ids returns the bound names, sorted.
func (w ways) ids() []string {
	var all []string
	for d := range w {
		all = append(all, d.Bound.ID.String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// chosen returns the leaves that requests for d go to, none if they fail.
func chosen(d *naming.Delegation) ways {
	w := ways{}
	if t, err := d.BoundTree(); err == nil && t.Kind != naming.BoundPending {
		w.follow(d, 1)
	}
	return w
}

// follow takes the way that naming.Delegation.BoundTree takes.
func (w ways) follow(d *naming.Delegation, of float64) {
	switch d.Type {
	case naming.NodeLeaf:
		w[d] += of
	case naming.NodeDelegate:
		w.follow(d.Delegate, of)
	case naming.NodeTransformation:
		w.follow(d.Tree, of)
	case naming.NodeAlt:
		for i := range d.Alt {
			if t, err := d.Alt[i].BoundTree(); err != nil || t.Kind != naming.BoundNeg {
				w.follow(&d.Alt[i], of)
				return
			}
		}
	case naming.NodeUnion:
		var kept []*naming.DelegationBranch
		sum := 0.0
		for i := range d.Union {
			t, err := d.Union[i].Tree.BoundTree()
			if err != nil || t.Kind == naming.BoundPending || t.Kind == naming.BoundNeg || t.Kind == naming.BoundFail {
				continue
			}
			kept = append(kept, &d.Union[i])
			sum += float64(d.Union[i].Weight)
		}
		for _, b := range kept {
			share := 1 / float64(len(kept))
			if sum > 0 {
				share = float64(b.Weight) / sum
			}
			if share > 0 {
				w.follow(&b.Tree, of*share)
			}
		}
	}
}

// explain prints everything that the rules make of a name, a step a line.
func explain(w io.Writer, d *naming.Delegation, chosen ways) {
	e := explanation{w, chosen}
	e.node(d, 0, "", true)
}

type explanation struct {
	w      io.Writer
	chosen ways
}

// line prints a line with the mark of what is chosen before it.
func (e explanation) line(marked bool, depth int, text string, notes ...string) {
	mark := ' '
	if marked {
		mark = '*'
	}
	notes = slices.DeleteFunc(notes, func(s string) bool { return s == "" })
	if len(notes) > 0 {
		text += "   " + strings.Join(notes, "   ")
	}
	fmt.Fprintf(e.w, "%c %s%s\n", mark, strings.Repeat("  ", depth), text)
}

// node prints d; step says whether the name at d is another than that above it.
func (e explanation) node(d *naming.Delegation, depth int, note string, step bool) {
	by := ""
	if d.Dentry != nil && step {
		by = fmt.Sprintf("(%s => %s)", d.Dentry.Prefix, d.Dentry.Dst)
	}
	path := shown(d.Path)
	switch d.Type {
	case naming.NodeDelegate:
		e.line(false, depth, path, note, by)
		e.node(d.Delegate, depth+1, "", true)
	case naming.NodeAlt:
		e.line(false, depth, path, note, by)
		for i := range d.Alt {
			e.node(&d.Alt[i], depth+1, "", true)
		}
	case naming.NodeUnion:
		e.line(false, depth, path, note, by)
		sum := 0.0
		for _, b := range d.Union {
			sum += float64(b.Weight)
		}
		for i := range d.Union {
			weight := fmt.Sprintf("weight %s", strconv.FormatFloat(float64(d.Union[i].Weight), 'f', -1, 64))
			if sum > 0 {
				weight += " of " + strconv.FormatFloat(sum, 'f', -1, 64)
			}
			e.node(&d.Union[i].Tree, depth+1, weight, true)
		}
	case naming.NodeTransformation:
		e.line(false, depth, path, note, by, "transformed by "+shown(d.Name))
		e.node(d.Tree, depth+1, "", true)
	case naming.NodeLeaf:
		e.leaf(d, depth, note, by)
	case naming.NodeNeg:
		e.line(false, depth, path, note, by, "~ no answer")
	case naming.NodeFail:
		e.line(false, depth, path, note, by, "! fails")
	case naming.NodeEmpty:
		e.line(false, depth, path, note, by, "$ no endpoints")
	case naming.NodePending:
		e.line(false, depth, path, note, by, "not answered yet")
	default:
		e.line(false, depth, path, note, by, shown(d.Message))
	}
}

func (e explanation) leaf(d *naming.Delegation, depth int, note, by string) {
	share, marked := e.chosen[d]
	part, name := "", d.Bound.ID.String()
	if marked && share < 1 {
		part = percent(share) + " of requests"
	}
	if name != d.Path { // a namer had another name for it
		e.line(false, depth, shown(d.Path), note, by)
		depth, note, by = depth+1, "", ""
	}
	if len(d.Bound.Residual) > 0 {
		name += "   rest " + d.Bound.Residual.String()
	}
	e.line(marked, depth, name, note, by, part)
	switch a := d.Bound.Addr; {
	case a.State == naming.StateBound && len(a.Endpoints) > 0:
		for _, p := range a.Endpoints {
			e.line(false, depth+1, endpoint(p))
		}
	case a.State == naming.StateBound:
		e.line(false, depth+1, "no endpoints now")
	case a.State == naming.StateFailed:
		e.line(false, depth+1, "unknown: "+shown(a.Cause))
	case a.State == naming.StateNeg:
		e.line(false, depth+1, "there is no such replica set")
	default:
		e.line(false, depth+1, "endpoints are not known yet")
	}
}

// endpoint is an address, and how it is reached.
func endpoint(p naming.Endpoint) string {
	text := shown(p.Address)
	if p.Node != "" {
		text += "   node " + shown(p.Node)
	}
	if p.Hop != naming.HopNone {
		text += fmt.Sprintf("   through its %s proxy at %s", p.Hop, shown(p.Via))
	}
	if p.Weight != 1 {
		text += "   weight " + strconv.FormatFloat(p.Weight, 'f', -1, 64)
	}
	return text
}

// percent is a share with as many digits as tell something.
func percent(share float64) string {
	return strconv.FormatFloat(share*100, 'g', 3, 64) + "%"
}
