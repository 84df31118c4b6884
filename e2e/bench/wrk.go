//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// workload is what wrk asks for, over and over.
type workload struct {
	path string
	post int // bytes of the request's body; 0 is a GET
}

// small is the workload of 100 B answers.
var small = workload{path: "/100b"}

// tally is what wrk.lua prints at its end.
type tally struct {
	Requests                              int
	Microseconds                          int
	Connect, Read, Write, Status, Timeout int // errors
}

// rate is in requests a second.
func (t tally) rate() float64 { return float64(t.Requests) / (float64(t.Microseconds) / 1e6) }

func parseTally(output []byte) (tally, error) {
	for line := range bytes.Lines(output) {
		after, ok := bytes.CutPrefix(line, []byte("RESULT "))
		if !ok {
			continue
		}
		var t tally
		if err := json.Unmarshal(after, &t); err != nil {
			return t, fmt.Errorf("read what wrk says: %w", err)
		}
		var failed []string
		for _, e := range []struct {
			n    int
			what string
		}{
			{t.Connect, "not connected"}, {t.Read, "not read"}, {t.Write, "not sent"},
			{t.Status, "with an error status"}, {t.Timeout, "timed out"},
		} {
			if e.n > 0 {
				failed = append(failed, fmt.Sprintf("%d %s", e.n, e.what))
			}
		}
		switch {
		case failed != nil:
			return t, fmt.Errorf("of %d requests, %s", t.Requests, strings.Join(failed, ", "))
		case t.Requests == 0 || t.Microseconds == 0:
			return t, fmt.Errorf("wrk got no answer")
		}
		return t, nil
	}
	return tally{}, fmt.Errorf("wrk ended without a result: %q", output)
}

// connections of wrk and of the open loop, to one proxy.
const connections = 64

// wrk keeps 64 connections busy for a while, each with one request at a time. Any error among the
// answers is one here.
func (l *lab) wrk(ctx context.Context, port int, w workload, seconds int) (tally, error) {
	cmd := exec.CommandContext(ctx, "wrk", "-t1", "-c"+strconv.Itoa(connections), "-d"+strconv.Itoa(seconds)+"s",
		"-H", "Host: "+host, "-s", l.wrkScript, fmt.Sprintf("http://127.0.0.1:%d%s", port, w.path))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if w.post > 0 {
		cmd.Env = append(os.Environ(), "WRK_POST="+strconv.Itoa(w.post))
	}
	if err := startOn(cmd, l.loadCPUs); err != nil {
		return tally{}, fmt.Errorf("run wrk: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return tally{}, fmt.Errorf("run wrk: %w: %s", err, out.Bytes())
	}
	return parseTally(out.Bytes())
}
