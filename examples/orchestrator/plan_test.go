package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePlan(t *testing.T) {
	plan, err := parsePlan("plan.json", []byte(`{
		"title": "Two steps",
		"tasks": [
			{"id": "b", "title": "B", "command": ["echo", ""], "dependsOn": ["a"]},
			{"id": "a", "title": "A", "command": ["true"]}
		]
	}`))
	require.NoError(t, err)
	require.Equal(t, &Plan{Title: "Two steps", Tasks: []Task{
		{ID: "b", Title: "B", Command: []string{"echo", ""}, DependsOn: []string{"a"}},
		{ID: "a", Title: "A", Command: []string{"true"}, DependsOn: []string{}},
	}}, plan)
}

func TestDefaultPlan(t *testing.T) {
	plan, err := loadPlan("")
	require.NoError(t, err)
	require.NotEmpty(t, plan.Tasks)
	for _, task := range plan.Tasks {
		require.Equal(t, "go", task.Command[0], "only Go is installed where the default plan must work")
	}
}

func TestParsePlanErrors(t *testing.T) {
	task := func(fields string) string { return `{"title":"t","tasks":[` + fields + `]}` }
	const ok = `{"id":"ok","title":"t","command":["true"]}`
	for _, test := range []struct{ name, plan, want string }{
		{"empty file", ``, `plan.json:1:1: unexpected end of the file`},
		{"cut off", "{\n \"title\": \"t\",", `plan.json:2:15: unexpected end of the file`},
		{"bad syntax", "{\n  \"title\": \"é\" x}", `plan.json:2:16: invalid character 'x' after object key:value pair`},
		{"text after the plan", task(ok) + "\n {}", `plan.json:2:2: unexpected text after the plan`},
		{"garbage after the plan", task(ok) + "\n\n;", `plan.json:3:1: unexpected text after the plan`},
		{"not UTF-8", "{\"title\":\"\xff\"}", `plan.json: not valid UTF-8`},
		{"not an object", `[]`, `plan.json: want an object, have an array`},
		{"unknown field", `{"title":"t","tasks":[],"x":1}`, `plan.json: x: unknown field`},
		{"field in another case", `{"Title":"t","tasks":[]}`, `plan.json: Title: unknown field`},
		{"no title", `{"tasks":[]}`, `plan.json: title: is missing`},
		{"blank title", `{"title":" ","tasks":[]}`, `plan.json: title: is empty`},
		{"no tasks", `{"title":"t"}`, `plan.json: tasks: is missing`},
		{"null tasks", `{"title":"t","tasks":null}`, `plan.json: tasks: want an array, have null`},
		{"zero tasks", task(``), `plan.json: tasks: no task`},
		{"task is a string", task(`"x"`), `plan.json: tasks[0]: want an object, have a string`},
		{"unknown task field", task(ok + `,{"id":"x","cmd":[]}`), `plan.json: tasks[1].cmd: unknown field`},
		{"field twice", task(`{"id":"x","id":"y"}`), `plan.json: tasks[0].id: appears twice`},
		{"no id", task(`{"title":"t","command":["true"]}`), `plan.json: tasks[0].id: is missing`},
		{"number as id", task(`{"id":-7,"title":"t","command":["true"]}`), `plan.json: tasks[0].id: want a string, have a number`},
		{"id twice", task(ok + `,` + ok), `plan.json: tasks[1].id: "ok" is the id of tasks[0] already`},
		{"no command", task(`{"id":"x","title":"t"}`), `plan.json: tasks[0].command: is missing`},
		{"command is a string", task(`{"id":"x","title":"t","command":"go vet"}`), `plan.json: tasks[0].command: want an array, have a string`},
		{"empty command", task(`{"id":"x","title":"t","command":[]}`), `plan.json: tasks[0].command: is empty: want a program and its arguments`},
		{"empty program", task(`{"id":"x","title":"t","command":[""]}`), `plan.json: tasks[0].command[0]: is empty: want a program`},
		{"argument is an object", task(`{"id":"x","title":"t","command":["a",{}]}`), `plan.json: tasks[0].command[1]: want a string, have an object`},
		{"NUL in an argument", task(`{"id":"x","title":"t","command":["a","\u0000"]}`), `plan.json: tasks[0].command[1]: contains a NUL character`},
		{"dependsOn is true", task(`{"id":"x","title":"t","command":["a"],"dependsOn":true}`), `plan.json: tasks[0].dependsOn: want an array, have a boolean`},
		{"no such dependency", task(ok + `,{"id":"x","title":"t","command":["a"],"dependsOn":["ok","nope"]}`), `plan.json: tasks[1].dependsOn[1]: no task "nope"`},
		{"dependency twice", task(ok + `,{"id":"x","title":"t","command":["a"],"dependsOn":["ok","ok"]}`), `plan.json: tasks[1].dependsOn[1]: "ok" is listed twice`},
		{"depends on itself", task(`{"id":"x","title":"t","command":["a"],"dependsOn":["x"]}`), `plan.json: tasks[0].dependsOn[0]: cycle: x -> x`},
		{"cycle", task(ok + `,
			{"id":"a","title":"t","command":["a"],"dependsOn":["ok","b"]},
			{"id":"b","title":"t","command":["a"],"dependsOn":["c"]},
			{"id":"c","title":"t","command":["a"],"dependsOn":["b"]}`), `plan.json: tasks[3].dependsOn[0]: cycle: b -> c -> b`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parsePlan("plan.json", []byte(test.plan))
			require.EqualError(t, err, test.want)
		})
	}
}
