"""The page in the browser, on Gradio."""
