export default (ctx: { input: object }) => ctx.input;
