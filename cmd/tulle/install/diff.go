package install

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// change is one value that differs. Nil is none.
type change struct {
	path     string
	was, now any
}

// compare lists what differs between two objects. Entries of lists are told by their names where they have any.
func compare(was, now any) []change {
	var all []change
	walk("", was, now, &all)
	return all
}

func walk(path string, was, now any, into *[]change) {
	if reflect.DeepEqual(was, now) {
		return
	}
	a, b := keyed(was), keyed(now)
	if a == nil || b == nil {
		*into = append(*into, change{path, was, now})
		return
	}
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	before := len(*into)
	for _, key := range slices.Compact(keys) {
		walk(join(path, key), a[key], b[key], into)
	}
	if len(*into) == before { // the order of a list
		*into = append(*into, change{path, was, now})
	}
}

func join(path, key string) string {
	if path == "" || strings.HasPrefix(key, "[") {
		return path + key
	}
	return path + "." + key
}

// keyed returns the entries of an object or of a list by what they are called; nil for values.
func keyed(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		all := make(map[string]any, len(v))
		for key, value := range v {
			if strings.ContainsAny(key, "./") {
				key = "[" + key + "]"
			}
			all[key] = value
		}
		return all
	case []any:
		all := make(map[string]any, len(v))
		for i, e := range v {
			key := strconv.Itoa(i)
			if m, ok := e.(map[string]any); ok {
				if n, ok := m["name"].(string); ok {
					key = n
				}
			}
			all["["+key+"]"] = e
		}
		if len(all) == len(v) {
			return all
		}
	}
	return nil
}

// String is one line, or several for a text of several.
func (c change) String() string {
	was, isText := c.was.(string)
	now, isTextNow := c.now.(string)
	if isText && isTextNow && strings.Contains(was+now, "\n") {
		return c.path + ":\n" + strings.TrimSuffix(lines(was, now), "\n")
	}
	switch {
	case c.was == nil:
		return "+ " + c.path + ": " + short(c.now)
	case c.now == nil:
		return "- " + c.path + ": " + short(c.was)
	}
	return "~ " + c.path + ": " + short(c.was) + " -> " + short(c.now)
}

func short(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	const most = 160
	if r := []rune(string(text)); len(r) > most {
		return string(r[:most]) + "…"
	}
	return string(text)
}

// lines lists the lines that differ between two texts, by their longest common subsequence.
func lines(was, now string) string {
	a, b := strings.Split(was, "\n"), strings.Split(now, "\n")
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			fmt.Fprintf(&out, "  - %s\n", a[i])
			i++
		default:
			fmt.Fprintf(&out, "  + %s\n", b[j])
			j++
		}
	}
	return out.String()
}
