package core

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func FuzzTraceparent(f *testing.F) {
	zeros := func(n int) string { return strings.Repeat("0", n) }
	for _, s := range []string{
		"", trace, trace[:54], trace + "0", trace + "-", " " + trace, "01" + trace[2:], "ff" + trace[2:], strings.ToUpper(trace),
		"00-" + zeros(32) + trace[35:], trace[:36] + zeros(16) + "-00", trace[:53] + "ff", trace[:53] + "0g", strings.ReplaceAll(trace, "-", "_"),
		trace[:10] + "-" + trace[11:], trace[:10] + "/" + trace[11:], trace[:10] + ":" + trace[11:], trace[:10] + "`" + trace[11:],
		"00-" + zeros(31) + "1-" + zeros(15) + "1-00", "00-1" + zeros(31) + "-1" + zeros(15) + "-00", trace[:54] + "\n", trace[:53] + "é",
	} {
		f.Add(s)
	}
	shape := regexp.MustCompile(`\A00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\z`)
	f.Fuzz(func(t *testing.T, s string) {
		m := shape.FindStringSubmatch(s)
		want := m != nil && m[1] != zeros(32) && m[2] != zeros(16)
		if isTraceparent(s) != want {
			t.Fatalf("%q: %t", s, !want)
		}
	})
}

// An event carries the trace it is given, or that of Publish's context, and
// without one not a byte more. Encodings made later carry it too.
func TestTraceparent(t *testing.T) {
	type key struct{}
	other := strings.Replace(trace, "7", "8", 1)
	eachMode(t, func(t *testing.T, follow follow) {
		var published []string
		r := New(&Options{
			Heartbeat: -1,
			Traceparent: func(ctx context.Context) string {
				s, _ := ctx.Value(key{}).(string)
				return s
			},
			Hooks: Hooks{Published: func(_ string, e Event) { published = append(published, e.Traceparent) }},
		})
		live := follow(r, "x", nil)
		traced := context.WithValue(t.Context(), key{}, string([]byte(trace)))
		for _, p := range []struct {
			ctx context.Context
			own string
		}{{t.Context(), ""}, {traced, ""}, {traced, other}, {t.Context(), other}} {
			_, err := r.Publish(p.ctx, "x", Event{Type: "t", Key: "k", Data: []byte("a"), Traceparent: p.own})
			require.NoError(t, err)
			synctest.Wait() // the next one supersedes it
		}
		_, err := r.PublishJSON(traced, "x", "t", "b")
		require.NoError(t, err)
		late := follow(r, "x", nil)
		inJSON := follow(r, "x", &ClientOptions{Encoder: lines})
		require.NoError(t, r.Close(t.Context(), "x"))

		var got []string
		for _, f := range live.frames(t) {
			got = append(got, f.Traceparent)
		}
		require.Equal(t, []string{"", trace, other, other, trace, ""}, got)
		require.Equal(t, got[:5], published)
		require.Equal(t, 4, strings.Count(live.got.String(), "traceparent"))
		id := live.frames(t)[3].ID
		require.Contains(t, late.got.String(), "id: "+id+"\nevent: t\ntraceparent: "+other+"\ndata: a\n\n")
		require.Contains(t, inJSON.got.String(), fmt.Sprintf(`{"id":%q,"event":"t","traceparent":%q,"data":"a"}`, id, other))
		require.Equal(t, 2, strings.Count(inJSON.got.String(), "traceparent"))
	})
}

// A fault in tracing loses no event: it goes without. It is logged, seldom. What
// is refused anyhow asks for no trace.
func TestTraceparentInvalid(t *testing.T) {
	var out bytes.Buffer
	var r *Registry
	asked := 0
	r = New(&Options{
		Logger: slog.New(slog.NewTextHandler(&out, nil)),
		Traceparent: func(context.Context) string {
			asked++
			r.Stats() // no lock is held
			return "00-forged\n" + strings.Repeat("x", 1000)
		},
	})
	for range 10 {
		_, err := r.Publish(t.Context(), "x", Event{Data: []byte("a")})
		require.NoError(t, err)
	}
	_, err := r.Publish(t.Context(), "x", Event{Type: "a\nb"})
	require.ErrorIs(t, err, ErrEventType)
	_, err = r.Publish(cancelled(), "x", Event{})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 10, asked)
	require.Equal(t, 4, strings.Count(out.String(), "Traceparent returned none that is valid"), "the 1st, 2nd, 4th and 8th time")
	require.Less(t, out.Len(), 4*400)

	c, err := r.Register("x", nil)
	require.NoError(t, err)
	v := newViewer()
	c.Start(v)
	require.NoError(t, r.Close(t.Context(), "x"))
	require.NotContains(t, v.got.String(), "traceparent")
	require.Len(t, v.frames(t), 11)
}
