package dtab

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/cmd/tulle/fault"
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
	explanation{w, chosen}.node(d, nil, 0, "")
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
	for _, note := range notes {
		if note != "" {
			text += "   " + note
		}
	}
	fmt.Fprintf(e.w, "%c %s%s\n", mark, strings.Repeat("  ", depth), text)
}

// node prints d, which is below a node with the rule above.
func (e explanation) node(d *naming.Delegation, above *naming.Dentry, depth int, note string) {
	by := ""
	if d.Dentry != nil && (above == nil || above.String() != d.Dentry.String()) {
		prefix, dst := sides(*d.Dentry)
		by = "(" + prefix + " => " + dst + ")"
	}
	outcome := ""
	switch d.Type {
	case naming.NodeLeaf:
		e.leaf(d, depth, note, by)
		return
	case naming.NodeTransformation:
		outcome = "transformed by " + fault.Shown(d.Name)
	case naming.NodeNeg:
		outcome = "~ no answer"
	case naming.NodeFail:
		outcome = "! fails"
	case naming.NodeEmpty:
		outcome = "$ no endpoints"
	case naming.NodePending:
		outcome = "not answered yet"
	case naming.NodeException:
		outcome = fault.Shown(d.Message)
	}
	e.line(false, depth, fault.Shown(d.Path), note, by, outcome)
	switch d.Type {
	case naming.NodeDelegate:
		e.node(d.Delegate, d.Dentry, depth+1, "")
	case naming.NodeTransformation:
		e.node(d.Tree, d.Dentry, depth+1, "")
	case naming.NodeAlt:
		e.alternatives(d, depth+1)
	case naming.NodeUnion:
		sum := 0.0
		for _, b := range d.Union {
			sum += float64(b.Weight)
		}
		for i := range d.Union {
			weight := fmt.Sprintf("weight %s of %s", number(float64(d.Union[i].Weight)), number(sum))
			e.node(&d.Union[i].Tree, d.Dentry, depth+1, weight)
		}
	}
}

// alternatives prints those of d; endless rules have the same many times.
func (e explanation) alternatives(d *naming.Delegation, depth int) {
	last, times := "", 0
	more := func() {
		if times > 0 {
			e.line(false, depth, fmt.Sprintf("… and %d times the same", times))
		}
	}
	for i := range d.Alt {
		var text strings.Builder
		explanation{&text, e.chosen}.node(&d.Alt[i], d.Dentry, depth, "")
		if text.String() == last {
			times++
			continue
		}
		more()
		last, times = text.String(), 0
		io.WriteString(e.w, last)
	}
	more()
}

// number prints as few digits as it takes.
func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func (e explanation) leaf(d *naming.Delegation, depth int, note, by string) {
	share, marked := e.chosen[d]
	part, name := "", d.Bound.ID.String()
	if marked && share < 1 {
		part = percent(share) + " of requests"
	}
	if name != d.Path { // a namer had another name for it
		e.line(false, depth, fault.Shown(d.Path), note, by)
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
		e.line(false, depth+1, "unknown: "+fault.Shown(a.Cause))
	case a.State == naming.StateNeg:
		e.line(false, depth+1, "there is no such replica set")
	default:
		e.line(false, depth+1, "endpoints are not known yet")
	}
}

// endpoint is an address, and how it is reached.
func endpoint(p naming.Endpoint) string {
	text := fault.Shown(p.Address)
	if p.Node != "" {
		text += "   node " + fault.Shown(p.Node)
	}
	if p.Hop != naming.HopNone {
		text += fmt.Sprintf("   through its %s proxy at %s", p.Hop, fault.Shown(p.Via))
	}
	if p.Weight != 1 {
		text += "   weight " + number(p.Weight)
	}
	return text
}

// percent is a share with as many digits as tell something.
func percent(share float64) string {
	return strconv.FormatFloat(share*100, 'g', 3, 64) + "%"
}
