// Puts the text before a button into the clipboard. Without a secure context browsers know the older way alone.
document.querySelectorAll("button[data-copy]").forEach((button) => {
  const text = button.closest("details").querySelector("pre");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    let copied = false;
    try {
      await navigator.clipboard.writeText(text.textContent);
      copied = true;
    } catch {
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Marked: press Ctrl+C";
  });
});
