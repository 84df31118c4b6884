package fault

import "testing"

func TestShown(t *testing.T) {
	for text, want := range map[string]string{
		"plain: Zoë, 日本, “quoted”":           "plain: Zoë, 日本, “quoted”",
		"two\nlines\tand a tab":              "two lines and a tab",
		"\x1b[31mred\x07":                    "?[31mred?",
		"right\u202eto left, \u200b, \ufffd": "right?to left, ?, ?",
		"":                                   "",
	} {
		if got := Shown(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
