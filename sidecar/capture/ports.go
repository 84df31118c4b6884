package capture

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Range is the ports from First to Last, both included. Neither is 0.
type Range struct{ First, Last uint16 }

// String writes 80 or 80-90.
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Ports is a set of ports: ranges in order that neither touch nor overlap.
type Ports []Range

// ParsePorts reads a list such as "25,8000-8099, 3306". Empty is none.
func ParsePorts(list string) (Ports, error) {
	var all Ports
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		from, to, ranged := strings.Cut(item, "-")
		first, err := port(from)
		last := first
		if err == nil && ranged {
			last, err = port(to)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is no port and no range of ports: write numbers from 1 to 65535, as in 25,8000-8099", item)
		case last < first:
			return nil, fmt.Errorf("the range of ports %q ends before it begins", item)
		}
		all = append(all, Range{first, last})
	}
	return all.merged(), nil
}

func port(s string) (uint16, error) {
	if s == "" || s[0] == '+' || s[0] == '-' {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}

// merged returns the same ports in order.
func (p Ports) merged() Ports {
	all := slices.Clone(p)
	slices.SortFunc(all, func(a, b Range) int { return int(a.First) - int(b.First) })
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Has reports whether the port is one of them.
func (p Ports) Has(port uint16) bool {
	for _, r := range p {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// String writes the list that ParsePorts reads.
func (p Ports) String() string {
	words := make([]string, len(p))
	for i, r := range p {
		words[i] = r.String()
	}
	return strings.Join(words, ",")
}
