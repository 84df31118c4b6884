package file

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
)

// line is one address of a file. Either its endpoint is complete, or host is a
// name of DNS.
type line struct {
	endpoint naming.Endpoint // without an address if host is set
	host     string
	port     uint16
}

// parse reads a whole file: `<host> <port>` or `<host> <port> * <weight>` on a
// line, `#` begins a comment, blank lines mean nothing. The error joins what is
// wrong with each line, as file:line: text.
func parse(file, content string) ([]line, error) {
	var lines []line
	var errs []error
	number := 0
	for text := range strings.Lines(content) {
		number++
		text, _, _ = strings.Cut(text, "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		l, err := parseLine(fields)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, number, err))
			continue
		}
		lines = append(lines, l)
	}
	return lines, errors.Join(errs...)
}

func parseLine(fields []string) (line, error) {
	if len(fields) != 2 && (len(fields) != 4 || fields[2] != "*") {
		return line{}, fmt.Errorf("%q is not of the form `host port` or `host port * weight`, such as 10.0.0.7 8080 * 0.5", strings.Join(fields, " "))
	}
	host, digits := fields[0], fields[1]
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || port == 0 {
		return line{}, fmt.Errorf("%q is no port from 1 to 65535", digits)
	}
	l := line{port: uint16(port), endpoint: naming.Endpoint{Weight: 1}}
	if len(fields) == 4 {
		w, err := strconv.ParseFloat(fields[3], 64)
		if err != nil || w < 0 || math.IsInf(w, 0) || math.IsNaN(w) {
			return line{}, fmt.Errorf("%q is no weight such as 0.5 or 2", fields[3])
		}
		l.endpoint.Weight = w
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		l.endpoint.Address = netip.AddrPortFrom(ip.Unmap(), l.port).String()
		return l, nil
	}
	if !isHost(host) {
		return line{}, fmt.Errorf("%q is no IP address and no host name; host and port are two words", host)
	}
	l.host = host
	return l, nil
}

// isHost reports whether s may be a name of DNS, loosely: underscores are common.
// No name ends in a number, as 10.0.1 or a mistyped address does.
func isHost(s string) bool {
	last := s[strings.LastIndexByte(strings.TrimSuffix(s, "."), '.')+1:]
	if len(s) > 253 || '0' <= last[0] && last[0] <= '9' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
