const request = JSON.parse(await new Response(Deno.stdin.readable).text());
console.log(JSON.stringify({ request_id: request.request_id, success: true, output: request.input }));
