package admin

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"

	"github.com/tulle-mesh/tulle/naming"
	"github.com/tulle-mesh/tulle/naming/delegator"
	"github.com/tulle-mesh/tulle/naming/namer/api"
)

// document is a page while it is being written. html/template finds methods by their names, so that
// the linker leaves none out: with it a controller is 28 MB larger.
type document struct{ text strings.Builder }

// begin begins a page; styles is where delegator.css and delegator.js are.
func begin(title, styles string, scripts bool) *document {
	d := &document{}
	d.add(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<link rel="stylesheet" href="%sdelegator.css">
`, title, styles)
	if scripts {
		d.add(`<script src="%sdelegator.js" defer></script>`+"\n", styles)
	}
	d.add("</head>\n<body>\n")
	return d
}

// add appends markup. What takes the places of its %s is text, in elements or in quoted attributes.
func (d *document) add(markup string, texts ...any) {
	escaped := make([]any, len(texts))
	for i, t := range texts {
		escaped[i] = html.EscapeString(fmt.Sprint(t))
	}
	fmt.Fprintf(&d.text, markup, escaped...)
}

// send ends the page and answers with it.
func (d *document) send(w http.ResponseWriter, status int) {
	d.add("</body>\n</html>\n")
	delegator.Secure(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprint(w, d.text.String())
}

// show answers with the page of all dtab namespaces.
func (i index) show(w http.ResponseWriter, status int) {
	d := begin("Dtabs", i.Root+"dtab/", false)
	d.add("<h1>Dtabs</h1>\n")
	if i.Problem != "" {
		d.add(`<p class="bad">%s</p>`+"\n", i.Problem)
	}
	switch {
	case !i.Known:
		d.add("<p>It is not known yet which there are.</p>\n")
	case len(i.Namespaces) == 0:
		d.add("<p>No namespaces found</p>\n<p>A file with rules such as <code>%s</code> becomes one by <code>namerctl dtab create default FILE</code>.</p>\n",
			"/svc => /#/io.l5d.k8s/default/http ;")
	default:
		d.add(`<p class="note">Choose one to see its rules, and to try them, or others, on a name.</p>` + "\n<table>\n<tr><th>Namespace</th><th>Rules</th>")
		if i.InUse {
			d.add("<th>Names in use</th>")
		}
		d.add("</tr>\n")
		for _, n := range i.Namespaces {
			d.add(`<tr><td><a href="%sdtab/%s">%s</a></td><td>%s</td>`, i.Root, n.Name, n.Name, n.Rules)
			if i.InUse {
				d.add("<td>%s</td>", n.InUse)
			}
			d.add("</tr>\n")
		}
		d.add("</table>\n")
	}
	d.add("<h2>More</h2>\n<table>\n")
	for _, p := range i.Pages {
		d.add(`<tr><td><a href="%s%s">/%s</a></td><td>%s</td></tr>`+"\n", i.Root, p.Address, p.Address, p.What)
	}
	d.add("</table>\n")
	d.send(w, status)
}

// playground is the page on which people try the rules of a dtab, and others.
type playground struct {
	Name  string   // of the dtab
	Notes []string // what is known of it
	Dtab  naming.Dtab
	Names []api.Name // that proxies use
	Past  []past     // what the rules were, newest first
}

// past is rules of some time before.
type past struct {
	When, By string
	Dtab     naming.Dtab
}

// maxAddress is how long an address may be, in bytes: servers refuse much longer ones.
const maxAddress = 4000

// maxChips is how many names are shown at once; all can be chosen.
const maxChips = 12

func (p playground) show(w http.ResponseWriter) {
	d := begin(p.Name+" – dtabs", "", true)
	d.add(`<nav><a href="../">dtabs</a> /</nav>
<h1>%s</h1>
<p class="note">%s</p>
<form id="ask">
<label for="path">Path</label><div><input id="path" name="path" required spellcheck="false" autocomplete="off" placeholder="/svc/cart"`,
		p.Name, strings.Join(p.Notes, " · "))
	if len(p.Names) > 0 {
		d.add(` list="names">` + "\n" + `<datalist id="names">`)
		for _, n := range p.Names {
			d.add(`<option value="%s">`, n.Path)
		}
		d.add("</datalist>")
		p.chips(d)
	} else {
		d.add(">")
	}
	d.add(`</div>
<label for="dtab">Rules</label><div><textarea id="dtab" name="dtab" spellcheck="false" rows="%s" data-name="%s">
%s</textarea><small><span id="effect"></span> <button type="button" id="stored" hidden>as stored</button></small></div>
<label for="caller">Caller</label><div><input id="caller" name="caller" spellcheck="false" autocomplete="off"><small>the namespace of Kubernetes that callers are in, for rules that lead to /caller; may be empty</small></div>
<span></span><div><button title="Ctrl+Enter">Explain</button></div>
</form>
<noscript><p>This page needs JavaScript. The same is in <code>/dtab/delegator.json?path=/svc/cart&amp;dtab=/svc=&gt;/srv</code>.</p></noscript>
<div id="result" aria-live="polite"></div>
`, min(max(len(p.Dtab)+1, 5), 20), p.Name, delegator.Lines(p.Dtab))
	if len(p.Past) > 0 {
		d.add("<details><summary>What the rules were</summary>\n<table>\n")
		for _, old := range p.Past {
			rules := delegator.Lines(old.Dtab)
			address := "?dtab=" + url.QueryEscape(rules)
			if len(address) > maxAddress {
				address = "?" // the script has the rules from the link itself
			}
			d.add(`<tr><td>%s</td><td>%s</td><td>%s</td><td><a class="past" href="%s" data-rules="%s">try them</a></td></tr>`+"\n",
				old.When, old.By, count(len(old.Dtab), "rule"), address, rules)
		}
		d.add("</table>\n</details>\n")
	}
	d.send(w, http.StatusOK)
}

// chips shows the first names in use, each with who uses it.
func (p playground) chips(d *document) {
	d.add("<small>in use: ")
	for _, n := range p.Names[:min(len(p.Names), maxChips)] {
		query := url.Values{"path": {n.Path}}
		if n.Namespace != "" {
			query.Set("caller", n.Namespace)
		}
		d.add(`<a class="name" href="?%s" data-path="%s" data-caller="%s">%s`, query.Encode(), n.Path, n.Namespace, n.Path)
		if n.Namespace != "" {
			d.add(" <i>from %s</i>", n.Namespace)
		}
		d.add("</a> ")
	}
	if more := len(p.Names) - maxChips; more > 0 {
		d.add("and %s more", more)
	}
	d.add("</small>")
}

// showLogging answers with the page on which the level is set.
func (p *pages) showLogging(w http.ResponseWriter) {
	now := p.Level.Level()
	d := begin("Logging", "dtab/", false)
	d.add(`<nav><a href="./">dtabs</a> /</nav>
<h1>Logging</h1>
<p>The namer logs what is <b>%s</b> or more. What is set here holds until it starts again.</p>
<form class="choice" method="post" action="logging">
<input type="hidden" name="logger" value="%s">
`, now, rootLogger)
	for _, l := range levels {
		d.add(`<button name="level" value="%s"`, l)
		if l == now {
			d.add(" disabled")
		}
		d.add(">%s</button>\n", l)
	}
	d.add("</form>\n")
	d.send(w, http.StatusOK)
}
